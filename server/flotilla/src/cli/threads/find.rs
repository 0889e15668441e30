//! A thread as a person names one: by id, or by the name of one of their own.

use flotilla_client::{Client, Pages};
use flotilla_proto::threads::v1::{GetThreadRequest, ListThreadsRequest, Thread};
use ulid::Ulid;

use crate::cli::{Failure, output::printable};

/// How many candidates an error lists.
const CANDIDATES: usize = 10;

/// The id of the thread that is meant.
pub(super) async fn id(client: &Client, text: &str) -> Result<String, Failure> {
    match Ulid::from_string(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Ok(by_name(client, text).await?.id),
    }
}

/// The thread that is meant.
pub(super) async fn thread(client: &Client, text: &str) -> Result<Thread, Failure> {
    match Ulid::from_string(text) {
        Ok(_) => Ok(client.call(GetThreadRequest { id: text.to_owned() }).await?),
        Err(_) => by_name(client, text).await,
    }
}

async fn by_name(client: &Client, name: &str) -> Result<Thread, Failure> {
    let (mut called, mut others) = (Vec::new(), Vec::new());
    let mut pages = Pages::new(client, ListThreadsRequest::default());
    while let Some(page) = pages.next(1000).await? {
        let (these, those): (Vec<Thread>, Vec<Thread>) =
            page.items.into_iter().partition(|thread| thread.display_name == name);
        called.extend(these);
        others.extend(those.into_iter().take((CANDIDATES + 1).saturating_sub(others.len())));
    }
    let wrong = |reason| Failure::Argument { argument: format!("thread {name}"), reason };
    match called.len() {
        1 => Ok(called.remove(0)),
        0 if others.is_empty() => Err(wrong("you are a member of no thread, so only an id can be given".to_owned())),
        0 => Err(wrong(format!("none of your threads has this name; they are:{}", listed(&others)))),
        _ => Err(wrong(format!("several of your threads have this name, so give an id:{}", listed(&called)))),
    }
}

fn listed(threads: &[Thread]) -> String {
    let line = |thread: &Thread| format!("\n  {}  {}", thread.id, printable(&thread.display_name));
    let mut text: String = threads.iter().take(CANDIDATES).map(line).collect();
    if threads.len() > CANDIDATES {
        text.push_str("\n  …");
    }
    text
}
