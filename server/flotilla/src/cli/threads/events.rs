//! `threads events`.

use clap::Args;
use flotilla_client::{Client, Pages};
use flotilla_proto::threads::v1::ListEventsRequest;

use super::{find, line::line, names::Names};
use crate::cli::{Failure, output::Output};

#[derive(Debug, Args)]
pub(in crate::cli) struct Events {
    /// The thread's id or name
    thread: String,
    /// Only events after this sequence [default: from the oldest that is kept]
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    /// Begin with the newest
    #[arg(long)]
    newest_first: bool,
    /// At most this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

impl Events {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let thread_id = find::id(client, &self.thread).await?;
        let mut request =
            ListEventsRequest { thread_id, newest_first: self.newest_first, ..ListEventsRequest::default() };
        if let Some(after) = self.after.filter(|after| *after > 0) {
            // A sequence counts in a history, which any page tells.
            let newest = ListEventsRequest { page_size: 1, newest_first: true, ..request.clone() };
            request.history = client.call(newest).await?.end.unwrap_or_default().history;
            request.after_sequence = after;
        }
        let mut names = Names::new(client);
        let for_a_person = output.is_for_a_person();
        let mut list = output.list("events");
        let mut pages = Pages::new(client, request);
        let mut left = self.limit.unwrap_or(usize::MAX);
        while left > 0 {
            let Some(page) = pages.next(left).await? else { break };
            let events = page.items.get(..left).unwrap_or(&page.items);
            let mut lines = Vec::new();
            for event in events.iter().filter(|_| for_a_person) {
                names.prepare(event).await;
                lines.push(line(event, &names));
            }
            list.lines(events, &lines)?;
            left -= events.len();
        }
        list.end()
    }
}
