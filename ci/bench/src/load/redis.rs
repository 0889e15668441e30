//! Redis commands over TCP (the protocol RESP2): a connection holds a fixed number of commands in flight, and writes
//! as many new ones at once as one read answered.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Answers, Plan, Requests, Window, open_window};

/// A command of these arguments.
pub(crate) fn command(arguments: &[&[u8]]) -> Bytes {
    let mut encoded = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        encoded.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        encoded.extend_from_slice(argument);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.into()
}

pub(super) async fn drive(
    plan: Plan,
    requests: &(dyn Fn(usize) -> Requests + Send),
    ready: &mpsc::Sender<Window>,
) -> Result<Answers> {
    let mut streams = Vec::new();
    for _ in 0..plan.connections {
        let stream =
            TcpStream::connect(plan.address).await.with_context(|| format!("connecting to {}", plan.address))?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let window = open_window(plan, ready);
    let mut connections = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        connections.spawn(connection(stream, plan.slots_of(number), requests(number), window));
    }
    let mut answers = Answers::default();
    while let Some(connection) = connections.join_next().await {
        answers.merge(connection??);
    }
    Ok(answers)
}

async fn connection(mut stream: TcpStream, slots: usize, mut requests: Requests, window: Window) -> Result<Answers> {
    let mut answers = Answers::default();
    let mut begun = VecDeque::with_capacity(slots);
    let mut sending = BytesMut::new();
    let mut received = BytesMut::with_capacity(64 << 10);
    let mut free = slots;
    loop {
        let now = Instant::now();
        if !window.is_over(now) {
            for request in std::iter::from_fn(&mut requests).take(free) {
                sending.extend_from_slice(&request);
                begun.push_back(now);
            }
        }
        if begun.is_empty() {
            return Ok(answers);
        }
        stream.write_all_buf(&mut sending).await?;
        if stream.read_buf(&mut received).await? == 0 {
            bail!("redis closed the connection");
        }
        let done = Instant::now();
        while take_reply(&mut received)? {
            let sent = begun.pop_front().context("redis answered what nobody asked")?;
            answers.note(window, sent, done);
        }
        free = slots - begun.len();
    }
}

/// Takes a whole reply off the front; false: it isn't all there yet. A reply that is an error fails.
fn take_reply(received: &mut BytesMut) -> Result<bool> {
    let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(false);
    };
    let line = String::from_utf8_lossy(&received[1..end]);
    let length = match received[0] {
        b'+' | b':' => end + 2,
        b'$' => end + 2 + line.parse::<usize>()? + 2,
        b'-' => bail!("redis answered {line}"),
        other => bail!("redis answered with an unexpected kind of reply, {:?}", char::from(other)),
    };
    if received.len() < length {
        return Ok(false);
    }
    received.advance(length);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_its_arguments() {
        assert_eq!(&command(&[b"XADD", b"k"])[..], b"*2\r\n$4\r\nXADD\r\n$1\r\nk\r\n");
    }

    #[test]
    fn replies_are_taken_whole_and_in_order() -> Result<()> {
        let mut received = BytesMut::from(&b"$3\r\n1-0\r\n+OK\r\n$3\r\n2-"[..]);
        assert!(take_reply(&mut received)?);
        assert!(take_reply(&mut received)?);
        assert!(!take_reply(&mut received)?);
        received.extend_from_slice(b"0\r\n");
        assert!(take_reply(&mut received)?);
        assert!(received.is_empty());
        Ok(())
    }

    #[test]
    fn an_error_reply_fails_with_what_redis_said() {
        let mut received = BytesMut::from(&b"-MISCONF disk full\r\n"[..]);
        let error = take_reply(&mut received).map_err(|error| error.to_string());
        assert_eq!(error, Err("redis answered MISCONF disk full".to_owned()));
    }
}
