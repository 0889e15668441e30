//! A server that pushes: how it is subscribed to and posted to. Posts are texts of 128 bytes that end with a number.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use flotilla_proto::threads::v1::{CreateThreadRequest, SubscribeRequest, Thread, subscribe_request::Start};
use prost::Message;

use super::client::Client;
use super::client::http2::{Kind, headers};
use super::client::nats::ANSWERS;
use super::client::tally::text;
use crate::load::grpc::framed;
use crate::requests::{field, once_as, request_id};
use crate::servers::echo::Payload;
use crate::servers::{Disk, Server, flotilla, nats, streams};

/// Streams of a shared connection.
pub(crate) const STREAMS: usize = 100;
/// Users of Flotilla's threads; a connection is one user's.
const USERS: u32 = 100;
const TEXT_BYTES: usize = 128;
/// How long any stream may take to be opened.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

const CREATE_THREAD: &str = "flotilla.threads.v1.ThreadsService/CreateThread";
const POST_MESSAGE: &str = "/flotilla.threads.v1.ThreadsService/PostMessage";
const SUBSCRIBE: &str = "/flotilla.threads.v1.ThreadsService/Subscribe";

/// A server with something to subscribe to.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) server: Server,
    kind: TargetKind,
}

enum TargetKind {
    Flotilla {
        users: Vec<String>,
        threads: Vec<String>,
        posting: Vec<Vec<u8>>,
    },
    /// Bare tonic.
    Streams {
        posting: Vec<u8>,
    },
    Nats,
    JetStream,
}

impl Target {
    /// Flotilla with so many threads, of which all users are members.
    pub(crate) fn flotilla(binary: &Path, folder: &Path, threads: usize) -> Result<Self> {
        let server = flotilla::start(binary, folder, Disk::OwnSpeed)?;
        let (ids, _) = flotilla::load_users(server.address, USERS, Duration::from_secs(30))?;
        let users: Vec<String> = ids.iter().map(|id| String::from_utf8_lossy(id).into_owned()).collect();
        let threads = (0..threads).map(|number| create_thread(server.address, number, &users));
        let threads: Vec<String> = threads.collect::<Result<_>>()?;
        let posting = users.iter().map(|user| headers(POST_MESSAGE, &[("flotilla-user", user)])).collect();
        Ok(Self { name: "flotilla", server, kind: TargetKind::Flotilla { users, threads, posting } })
    }

    pub(crate) fn streams(folder: &Path) -> Result<Self> {
        let posting = headers(&format!("/{}", streams::POST), &[]);
        Ok(Self { name: "tonic", server: streams::start(folder)?, kind: TargetKind::Streams { posting } })
    }

    pub(crate) fn nats(folder: &Path) -> Result<Self> {
        Ok(Self { name: "nats", server: nats::start(folder)?, kind: TargetKind::Nats })
    }

    pub(crate) fn jetstream(folder: &Path) -> Result<Self> {
        Ok(Self { name: "jetstream", server: nats::start_jetstream(folder)?, kind: TargetKind::JetStream })
    }

    /// Every post also has a deadline of so many milliseconds. Flotilla's only.
    pub(crate) fn with_deadline(&mut self, milliseconds: u32) {
        if let TargetKind::Flotilla { users, posting, .. } = &mut self.kind {
            let deadline = format!("{milliseconds}m");
            let with = |user: &String| headers(POST_MESSAGE, &[("flotilla-user", user), ("grpc-timeout", &deadline)]);
            *posting = users.iter().map(with).collect();
        }
    }

    /// A client with so many subscribers, which take turns with the threads; waits until all are subscribed.
    pub(crate) fn subscribed(&self, subscribers: usize, streams: usize) -> Result<Client> {
        let mut client = Client::new(self.server.address)?;
        let begun = client.tally.opened;
        for (number, first) in (0..subscribers).step_by(streams).enumerate() {
            let end = (first + streams).min(subscribers);
            self.subscribe(&mut client, first..end)?;
            // Not too many at once: a server may refuse them.
            if number % 16 == 15 || end == subscribers {
                let wanted = begun + end;
                client.until("subscribing", OPEN_LIMIT, |tally| tally.opened >= wanted)?;
            }
        }
        Ok(client)
    }

    /// Opens one connection with these subscribers; its place.
    pub(crate) fn subscribe(&self, client: &mut Client, subscribers: std::ops::Range<usize>) -> Result<usize> {
        match &self.kind {
            TargetKind::Flotilla { users, threads, .. } => {
                let connection = client.http2()?;
                let user = &users[subscribers.start / STREAMS % users.len()];
                for subscriber in subscribers {
                    let device = format!("device-{subscriber}");
                    let headers = headers(SUBSCRIBE, &[("flotilla-user", user), ("flotilla-device", &device)]);
                    let thread_ids = vec![threads[subscriber % threads.len()].clone()];
                    let request = SubscribeRequest { thread_ids, start: Start::Now.into(), ..Default::default() };
                    client.call(connection, &headers, &request.encode_to_vec(), Kind::Subscription);
                }
                client.flush(connection)?;
                Ok(connection)
            }
            TargetKind::Streams { .. } => {
                let connection = client.http2()?;
                let headers = headers(&format!("/{}", streams::SUBSCRIBE), &[]);
                for _ in subscribers {
                    client.call(connection, &headers, &[], Kind::Subscription);
                }
                client.flush(connection)?;
                Ok(connection)
            }
            TargetKind::Nats => client.nats(nats::POSTS, subscribers.len()),
            TargetKind::JetStream => client.nats(nats::STORED, subscribers.len()),
        }
    }

    /// Opens so many connections to post over; the place of the first.
    pub(crate) fn poster(&self, client: &mut Client, connections: usize) -> Result<usize> {
        let mut open = || match self.kind {
            TargetKind::Flotilla { .. } | TargetKind::Streams { .. } => client.http2(),
            TargetKind::Nats | TargetKind::JetStream => client.nats(&format!("{ANSWERS}>"), 1),
        };
        let first = open()?;
        for _ in 1..connections {
            open()?;
        }
        Ok(first)
    }

    /// Sends a post to the thread and as the user whose turn it is.
    pub(crate) fn post(&self, client: &mut Client, connection: usize) -> Result<()> {
        let number = client.tally.post(client.tally.now());
        let text = text(number, TEXT_BYTES);
        match &self.kind {
            TargetKind::Flotilla { threads, posting, .. } => {
                let turn = number as usize;
                let thread = threads[turn % threads.len()].as_bytes();
                let headers = &posting[(turn / threads.len() + turn) % posting.len()];
                client.call(connection, headers, &post_message(thread, &text), Kind::Post(number));
            }
            TargetKind::Streams { posting } => {
                let payload = Payload { content: padded(text) };
                client.call(connection, posting, &payload.encode_to_vec(), Kind::Post(number));
            }
            TargetKind::Nats => client.publish(connection, nats::POSTS, None, &padded(text)),
            TargetKind::JetStream => client.publish(connection, nats::POSTS, Some(number), &padded(text)),
        }
        client.flush(connection)
    }
}

/// Peers send as many bytes as an event of Flotilla has: 128 of text, and 100 of thread, sequence, time, user and request.
fn padded(text: Vec<u8>) -> Bytes {
    let mut bytes = vec![b'p'; 100];
    bytes.extend_from_slice(&text);
    bytes.into()
}

fn post_message(thread: &[u8], text: &[u8]) -> BytesMut {
    let mut message = BytesMut::with_capacity(160);
    field(&mut message, 1, text);
    let mut request = BytesMut::with_capacity(256);
    field(&mut request, 1, thread);
    field(&mut request, 2, &message);
    field(&mut request, 3, &request_id());
    request
}

fn create_thread(address: SocketAddr, number: usize, users: &[String]) -> Result<String> {
    let request = CreateThreadRequest {
        thread: Some(Thread { display_name: format!("harbour {number}"), ..Thread::default() }),
        member_user_ids: users.to_vec(),
        request_id: String::from_utf8_lossy(&request_id()).into_owned(),
    };
    let user = users.first().context("no users")?;
    let request = framed(|buffer| request.encode(buffer).unwrap_or_default());
    Ok(Thread::decode(once_as(address, user, CREATE_THREAD, request)?)?.id)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::threads::v1::PostMessageRequest;

    use super::*;

    #[test]
    fn a_post_by_hand_is_what_prost_reads() -> Result<()> {
        let request = PostMessageRequest::decode(post_message(b"thread", &text(7, TEXT_BYTES)))?;
        assert_eq!(request.thread_id, "thread");
        assert!(request.message.is_some_and(|message| message.text.len() == 128 && message.text.ends_with("00000007")));
        assert_eq!(request.request_id.len(), 26);
        Ok(())
    }
}
