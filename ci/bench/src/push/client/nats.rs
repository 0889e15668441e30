//! NATS's protocol: lines of text, and payloads after some of them. Messages to [`ANSWERS`] are JetStream's answers.

use anyhow::{Context, Result, bail};

use super::joined;
use super::tally::{NUMBER_BYTES, Tally};

/// The subject that answers come to, followed by the number of the post.
pub(crate) const ANSWERS: &str = "answers.";

/// One side of a connection.
pub(crate) struct Nats {
    /// A message that isn't all there yet.
    rest: Vec<u8>,
    /// Subscriptions that a PONG is awaited for.
    subscribing: usize,
}

impl Nats {
    /// And what is to be sent first: it subscribes so many times.
    pub(crate) fn new(subject: &str, times: usize, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        for id in 1..=times {
            out.extend_from_slice(format!("SUB {subject} {id}\r\n").as_bytes());
        }
        out.extend_from_slice(b"PING\r\n");
        Self { rest: Vec::new(), subscribing: times }
    }

    /// Publishes; with `answer`, JetStream's answer names the post again.
    pub(crate) fn publish(subject: &str, answer: Option<u32>, text: &[u8], out: &mut Vec<u8>) {
        let answer = answer.map(|number| format!("{ANSWERS}{number} ")).unwrap_or_default();
        out.extend_from_slice(format!("PUB {subject} {answer}{}\r\n", text.len()).as_bytes());
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    }

    /// Takes what came in.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>, tally: &mut Tally, now: u64) -> Result<()> {
        let joined = joined(&mut self.rest, input);
        let mut input = &joined[..];
        while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
            let line = input[..end].trim_ascii_end();
            let mut taken = end + 1;
            if line.starts_with(b"MSG ") {
                let length = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                let length: usize = std::str::from_utf8(length)?.parse().context("a MSG of nats without a length")?;
                if input.len() < taken + length + 2 {
                    break;
                }
                message(line, &input[taken..taken + length], tally, now);
                taken += length + 2;
            } else if line == b"PONG" {
                tally.opened += std::mem::take(&mut self.subscribing);
            } else if line == b"PING" {
                out.extend_from_slice(b"PONG\r\n");
            } else if line.starts_with(b"-ERR") {
                bail!("nats answered {}", String::from_utf8_lossy(line));
            }
            input = &input[taken..];
        }
        self.rest = input.to_vec();
        Ok(())
    }
}

fn message(line: &[u8], payload: &[u8], tally: &mut Tally, now: u64) {
    let subject = line[4..].split(|byte| *byte == b' ').next().unwrap_or_default();
    match subject.strip_prefix(ANSWERS.as_bytes()) {
        Some(number) => {
            let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
            let accepted = !payload.starts_with(b"{\"error\"");
            tally.answered(number.unwrap_or(u32::MAX), accepted, now);
        }
        None => tally.delivered(&payload[payload.len().saturating_sub(NUMBER_BYTES)..], now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_the_bytes_are_cut() -> Result<()> {
        for cut in [1, 3, 9, 20, 1_000] {
            let (mut out, mut tally) = (Vec::new(), Tally::new());
            let mut client = Nats::new("posts", 2, &mut out);
            tally.expect(2);
            tally.post(1);
            let bytes = b"INFO {}\r\nPONG\r\nMSG posts 1 10\r\nxx00000000\r\nMSG posts 2 10\r\nx\n00000000\r\n\
                          MSG answers.0 1 14\r\n{\"stream\":\"B\"}\r\n";
            for part in bytes.chunks(cut) {
                client.feed(part, &mut out, &mut tally, 7)?;
            }
            let counted = (tally.opened, tally.deliveries, tally.complete, tally.answered);
            assert_eq!(counted, (2, 2, 1, 1), "cut at {cut}");
        }
        Ok(())
    }
}
