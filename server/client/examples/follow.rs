//! Creates a user and a thread, posts to it, and follows it:
//! `cargo run -p flotilla-client --example follow -- http://127.0.0.1:7400`.

use std::{error::Error, time::Duration};

use flotilla_client::{
    Client, News, Subscription, Target,
    proto::{
        threads::v1::{CreateThreadRequest, Message, PostMessageRequest, Thread, event::Kind},
        users::v1::{CreateUserRequest, User},
    },
    request_id,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7400".to_owned());
    let client = Client::connect(&Target::new(endpoint).device("example")).await?;

    let email = format!("{}@example.org", request_id());
    let ada = User { email, display_name: "Ada".to_owned(), ..User::default() };
    let ada = client.call(CreateUserRequest { user: Some(ada), ..Default::default() }).await?;
    let client = client.acting_as(&ada.id)?;

    let harbour = Thread { display_name: "harbour".to_owned(), ..Thread::default() };
    let harbour = client.call(CreateThreadRequest { thread: Some(harbour), ..Default::default() }).await?;

    let mut subscription = Subscription::of(&client, [harbour.id.clone()]);
    for text in ["hello", "is anyone there?", "good night"] {
        let message = Message { text: text.to_owned(), data: None };
        let thread_id = harbour.id.clone();
        client.call(PostMessageRequest { thread_id, message: Some(message), ..Default::default() }).await?;
    }
    loop {
        match subscription.next().await? {
            News::Event(event) => {
                subscription.ack(&event);
                if let Some(Kind::Message(message)) = &event.kind {
                    say(&format!("#{} {}", event.sequence, message.text));
                    if message.text == "good night" {
                        break;
                    }
                }
            }
            News::Reset(reset) => say(&format!("read the thread anew by ListEvents: {}", reset.message)),
            News::Lost { reason, pause } => say(&format!("lost ({reason}), trying again in {pause:?}")),
            News::AckFailed(failure) => say(&format!("not acknowledged: {}", failure.error)),
            News::Gone { thread_id } => say(&format!("no longer a member of {thread_id}")),
            News::Started(_) | News::Resumed | News::Quiet => {}
        }
    }
    subscription.close(Duration::from_secs(5)).await?;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is what the example is for")]
fn say(text: &str) {
    println!("{text}");
}
