//! `threads post`.

use std::io::{self, Read};

use clap::Args;
use flotilla_client::Target;
use flotilla_proto::threads::v1::{Message, PostMessageRequest};

use super::{connect, find, line::line, names::Names};
use crate::cli::{Failure, document::read_document, intent::Intent, output::Output};

#[derive(Debug, Args)]
pub(in crate::cli) struct Post {
    /// The thread's id or name
    thread: String,
    /// The text; - reads stdin
    #[arg(required_unless_present = "data")]
    text: Option<String>,
    /// Data for the application, a JSON object; @FILE reads a file
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    #[command(flatten)]
    intent: Intent,
}

/// More than a message may have; a server says how much that is.
const MOST: u64 = 2 << 20;

impl Post {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        let text = match self.text.as_deref() {
            Some("-") if self.data.as_deref() == Some("-") => {
                return Err(Failure::Argument {
                    argument: "--data -".to_owned(),
                    reason: "stdin is the text already".to_owned(),
                });
            }
            Some("-") => read_text()?,
            text => text.unwrap_or_default().to_owned(),
        };
        let data = self.data.as_deref().map(|data| read_document("--data", data)).transpose()?;
        let client = connect(target).await?;
        let thread_id = find::id(&client, &self.thread).await?;
        let message = Some(Message { text, data });
        let event = client.call(PostMessageRequest { thread_id, message, request_id: self.intent.id() }).await?;
        if !output.is_for_a_person() {
            return output.told(&event, "");
        }
        let mut names = Names::new(&client);
        names.prepare(&event).await;
        output.told(&event, &line(&event, &names))
    }
}

/// What stdin says, without the end of its last line.
fn read_text() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().take(MOST).read_to_string(&mut text);
    read.map_err(|source| Failure::File { operation: "read", path: "stdin".into(), source })?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}
