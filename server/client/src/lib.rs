//! A client of Flotilla, for programs of all kinds.
//!
//! It adds to the generated code what every caller needs: deadlines, retries that neither repeat a
//! change nor bury a server that struggles, streams that go on where they broke, and
//! acknowledgements that are collected.
//!
//! ```no_run
//! use flotilla_client::{
//!     Client, News, Subscription, Target,
//!     proto::threads::v1::{CreateThreadRequest, Message, PostMessageRequest, Thread},
//! };
//! use std::time::Duration;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let target = Target::new("http://127.0.0.1:7400").user("01J9ZC5W1V8N3E6D4K2R7T0Q9B").device("laptop");
//! let client = Client::connect(&target).await?;
//!
//! // A request id is made for each call that changes something, so that its retries count once.
//! let thread = Thread { display_name: "harbour".to_owned(), ..Thread::default() };
//! let thread = client.call(CreateThreadRequest { thread: Some(thread), ..Default::default() }).await?;
//! let message = Message { text: "hello".to_owned(), data: None };
//! client.call(PostMessageRequest { thread_id: thread.id, message: Some(message), ..Default::default() }).await?;
//!
//! // Every event of all of the user's threads, in order and once, also across broken connections.
//! let mut subscription = Subscription::all(&client);
//! let acknowledger = subscription.acknowledger();
//! for _ in 0..10 {
//!     match subscription.next().await? {
//!         News::Event(event) => {
//!             println!("#{} {:?}", event.sequence, event.kind);
//!             acknowledger.ack(&event);
//!         }
//!         News::Reset(reset) => println!("read the thread anew by ListEvents: {}", reset.message),
//!         _ => {}
//!     }
//! }
//! subscription.close(Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```
//!
//! `examples/follow.rs` is a whole program.
//!
//! # Several servers
//!
//! ```
//! # use flotilla_client::Target;
//! let target = Target::new("http://10.0.0.1:7400,http://10.0.0.2:7400,http://10.0.0.3:7400");
//! ```
//!
//! One endpoint is enough, several make sure that one of them answers at the start. The cell tells of
//! its servers, and of what happens to them while the client runs: what changes something goes to the
//! leader, reads and streams are spread over the ready servers, and what one server fails another one
//! is asked, with the same request id. Where the servers' own addresses can't be reached, such as behind
//! a forwarded port, the given endpoints are used. [`Target::only_given`] uses them alone.
//!
//! # Layout
//!
//! * [`Client`]: the way to a cell's servers, the caller's identity, calls with deadlines and retries.
//! * [`Balanced`]: a cell's servers as one channel, for what is called otherwise.
//! * [`methods`]: which message calls which method.
//! * [`Pages`]: lists, a page at a time.
//! * [`RetryBudget`]: how much may be tried again.
//! * [`watch`]: the streams of changes of users and records.
//! * [`Subscription`]: the events of threads, and their acknowledgement.
//! * [`CallError`], [`SubscribeError`]: what went wrong.
//!
//! It reads no files, no environment and no clock of the world, and prints nothing. What is in [`proto`] is the contract's generated code.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic is how a test fails"))]

mod backoff;
mod balanced;
mod cell;
mod client;
mod error;
pub mod methods;
mod pages;
mod resume;
mod retry;
mod subscription;
pub mod watch;

pub use balanced::Balanced;
pub use client::{Client, MAX_MESSAGE, Target, request_id};
pub use error::{CallError, Refusal};
pub use flotilla_proto as proto;
pub use pages::{Listing, Page, Pages};
pub use retry::RetryBudget;
pub use subscription::{AckFailure, Acknowledger, CloseError, Delivery, MAX_ACKS, News, SubscribeError, Subscription};
