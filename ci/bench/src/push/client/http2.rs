//! Just enough of HTTP/2 and gRPC to open streams, make calls, and count what comes: the client shares the machine with
//! the server that it measures, and a real one would cost as much as the server. It says that it has endless windows,
//! no header table and no push; it reads no header, because an answer with a message is an answer with OK.

use std::collections::VecDeque;

use anyhow::{Result, bail};

use super::joined;
use super::tally::{NUMBER_BYTES, Tally};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = 65_535;
/// Bytes after which the server is told that they were read.
const WINDOW_STEP: u32 = 256 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACKNOWLEDGED: u8 = 1;
const END_HEADERS: u8 = 4;

/// The first byte of a `SubscribeResponse` that is an event, and of a bare stream's payload.
const EVENT: u8 = 0x0a;

/// What a stream is for.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Messages are events, or tell of the stream.
    Subscription,
    /// The answer to the post with this number.
    Post(u32),
}

/// One side of a connection: bytes in, bytes out.
pub(crate) struct Http2 {
    /// A frame that isn't all there yet.
    rest: Vec<u8>,
    /// From the oldest that isn't over.
    streams: VecDeque<Stream>,
    oldest: u32,
    /// What the server lets us send.
    window: i64,
    /// Calls that wait for it.
    waiting: VecDeque<(Vec<u8>, Kind)>,
    unacknowledged: u32,
}

struct Stream {
    kind: Kind,
    begun: bool,
    over: bool,
    /// A message that isn't all there yet.
    partial: Vec<u8>,
}

impl Http2 {
    /// And what is to be sent first.
    pub(crate) fn new(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        // Header table 0, no push, and the window of each stream.
        let settings = [(1_u16, 0_u32), (2, 0), (4, WINDOW)];
        frame(out, SETTINGS, 0, 0, settings.len() * 6);
        for (name, value) in settings {
            out.extend_from_slice(&name.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        window_update(out, WINDOW - FIRST_WINDOW);
        Self {
            rest: Vec::new(),
            streams: VecDeque::new(),
            oldest: 0,
            window: FIRST_WINDOW.into(),
            waiting: VecDeque::new(),
            unacknowledged: 0,
        }
    }

    /// Streams that are not over.
    pub(crate) fn open(&self) -> usize {
        self.streams.len() + self.waiting.len()
    }

    /// Opens a stream with a request's encoded headers and its message.
    pub(crate) fn call(&mut self, headers: &[u8], message: &[u8], kind: Kind, out: &mut Vec<u8>) {
        let mut request = Vec::with_capacity(2 * FRAME_HEADER + headers.len() + 5 + message.len());
        frame(&mut request, HEADERS, END_HEADERS, 0, headers.len());
        request.extend_from_slice(headers);
        frame(&mut request, DATA, END_STREAM, 0, 5 + message.len());
        request.push(0);
        request.extend_from_slice(&(message.len() as u32).to_be_bytes());
        request.extend_from_slice(message);
        self.waiting.push_back((request, kind));
        self.send(out);
    }

    /// Sends what waits, as far as the window goes. Whole requests are counted, which is a little too much.
    fn send(&mut self, out: &mut Vec<u8>) {
        while let Some((request, _)) = self.waiting.front()
            && self.window >= request.len() as i64
        {
            let Some((request, kind)) = self.waiting.pop_front() else { return };
            let id = (self.oldest + self.streams.len() as u32) * 2 + 1;
            let headers = FRAME_HEADER + length_of(&request);
            let begin = out.len();
            out.extend_from_slice(&request);
            out[begin + 5..begin + FRAME_HEADER].copy_from_slice(&id.to_be_bytes());
            out[begin + headers + 5..begin + headers + FRAME_HEADER].copy_from_slice(&id.to_be_bytes());
            self.window -= (request.len() - headers - FRAME_HEADER) as i64;
            self.streams.push_back(Stream { kind, begun: false, over: false, partial: Vec::new() });
        }
    }

    /// Takes what came in.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>, tally: &mut Tally, now: u64) -> Result<()> {
        let joined = joined(&mut self.rest, input);
        let mut input = &joined[..];
        while input.len() >= FRAME_HEADER && input.len() >= FRAME_HEADER + length_of(input) {
            let (this, rest) = input.split_at(FRAME_HEADER + length_of(input));
            self.frame(this, out, tally, now)?;
            input = rest;
        }
        self.rest = input.to_vec();
        Ok(())
    }

    fn frame(&mut self, frame_: &[u8], out: &mut Vec<u8>, tally: &mut Tally, now: u64) -> Result<()> {
        let (kind, flags, id) = (frame_[3], frame_[4], number(&frame_[5..9]) & WINDOW);
        let payload = &frame_[FRAME_HEADER..];
        match kind {
            DATA => {
                self.unacknowledged += payload.len() as u32;
                if self.unacknowledged >= WINDOW_STEP {
                    window_update(out, std::mem::take(&mut self.unacknowledged));
                }
                if let Some(stream) = self.stream(id) {
                    stream.data(payload, tally, now);
                }
                if flags & END_STREAM != 0 {
                    self.over(id, tally, now);
                }
            }
            HEADERS if flags & END_STREAM != 0 => self.over(id, tally, now),
            HEADERS => {
                if let Some(stream) = self.stream(id) {
                    stream.head(tally);
                }
            }
            RESET => self.over(id, tally, now),
            SETTINGS if flags & ACKNOWLEDGED == 0 => frame(out, SETTINGS, ACKNOWLEDGED, 0, 0),
            PING if flags & ACKNOWLEDGED == 0 => {
                frame(out, PING, ACKNOWLEDGED, 0, payload.len());
                out.extend_from_slice(payload);
            }
            WINDOW_UPDATE if id == 0 => {
                self.window += i64::from(number(payload));
                self.send(out);
            }
            GO_AWAY => bail!("the server ended a connection: {}", String::from_utf8_lossy(payload)),
            _ => {}
        }
        Ok(())
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let place = (id / 2).checked_sub(self.oldest)?;
        self.streams.get_mut(place as usize)
    }

    fn over(&mut self, id: u32, tally: &mut Tally, now: u64) {
        let Some(stream) = self.stream(id) else { return };
        stream.over = true;
        match stream.kind {
            Kind::Post(number) => tally.answered(number, stream.begun, now),
            Kind::Subscription => tally.trouble = Some("the server ended a stream".to_owned()),
        }
        while self.streams.front().is_some_and(|stream| stream.over) {
            self.streams.pop_front();
            self.oldest += 1;
        }
    }
}

impl Stream {
    /// A stream is subscribed when its headers come.
    fn head(&mut self, tally: &mut Tally) {
        if matches!(self.kind, Kind::Subscription) && !self.begun {
            self.begun = true;
            tally.opened += 1;
        }
    }

    fn data(&mut self, payload: &[u8], tally: &mut Tally, now: u64) {
        if matches!(self.kind, Kind::Post(_)) {
            self.begun = true;
            return;
        }
        let joined = joined(&mut self.partial, payload);
        let mut payload = &joined[..];
        while payload.len() >= 5 {
            let end = 5 + number(&payload[1..5]) as usize;
            if payload.len() < end {
                break;
            }
            match payload.get(5) {
                Some(&EVENT) if end >= 5 + NUMBER_BYTES => tally.delivered(&payload[end - NUMBER_BYTES..end], now),
                // What begins a stream, and signs of life.
                _ => {}
            }
            payload = &payload[end..];
        }
        self.partial = payload.to_vec();
    }
}

/// The headers of a gRPC call, each literal and without Huffman's code.
pub(crate) fn headers(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    // :method POST and :scheme http are in the static table, as are the names of :path, :authority and content-type.
    let mut block = vec![0x83, 0x86, 0x04];
    string(&mut block, path);
    block.push(0x01);
    string(&mut block, "localhost");
    block.extend_from_slice(&[0x0f, 31 - 15]);
    string(&mut block, "application/grpc");
    for (name, value) in [("te", "trailers")].iter().chain(more) {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// Of less than 127 bytes.
fn string(block: &mut Vec<u8>, text: &str) {
    block.push(text.len() as u8);
    block.extend_from_slice(text.as_bytes());
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, length: usize) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn window_update(out: &mut Vec<u8>, bytes: u32) {
    frame(out, WINDOW_UPDATE, 0, 0, 4);
    out.extend_from_slice(&bytes.to_be_bytes());
}

fn length_of(frame: &[u8]) -> usize {
    number(&[0, frame[0], frame[1], frame[2]]) as usize
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DATA frame of a message that begins with `first` and ends with a number.
    fn event(stream: u32, first: u8, text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, DATA, 0, stream, 5 + 1 + text.len());
        bytes.push(0);
        bytes.extend_from_slice(&(1 + text.len() as u32).to_be_bytes());
        bytes.push(first);
        bytes.extend_from_slice(text);
        bytes
    }

    #[test]
    fn events_are_counted_however_the_bytes_are_cut() -> Result<()> {
        for cut in [1, 3, 9, 20, 1_000] {
            let (mut out, mut tally) = (Vec::new(), Tally::new());
            let mut client = Http2::new(&mut out);
            client.call(&headers("/a/b", &[]), b"", Kind::Subscription, &mut out);
            tally.expect(1);
            tally.post(1);
            let bytes = [event(1, 0x12, b"00000000"), event(1, EVENT, b"xx00000000")].concat();
            for part in bytes.chunks(cut) {
                client.feed(part, &mut out, &mut tally, 7)?;
            }
            assert_eq!((tally.deliveries, tally.complete), (1, 1), "cut at {cut}");
        }
        Ok(())
    }

    #[test]
    fn an_answer_without_a_message_is_a_refusal() -> Result<()> {
        let (mut out, mut tally) = (Vec::new(), Tally::new());
        let mut client = Http2::new(&mut out);
        for _ in 0..2 {
            let number = tally.post(1);
            client.call(&headers("/a/b", &[]), b"", Kind::Post(number), &mut out);
        }
        let mut bytes = event(1, EVENT, b"");
        frame(&mut bytes, HEADERS, END_STREAM | END_HEADERS, 1, 0);
        frame(&mut bytes, HEADERS, END_STREAM | END_HEADERS, 3, 0);
        client.feed(&bytes, &mut out, &mut tally, 7)?;
        assert_eq!((tally.answered, tally.refused, client.open()), (1, 1, 0));
        Ok(())
    }

    #[test]
    fn requests_wait_for_the_servers_window() -> Result<()> {
        let (mut out, mut tally) = (Vec::new(), Tally::new());
        let mut client = Http2::new(&mut out);
        let message = vec![0; 40_000];
        for number in 0..2 {
            client.call(&headers("/a/b", &[]), &message, Kind::Post(number), &mut out);
        }
        assert!(out.len() < 50_000);
        let mut update = Vec::new();
        window_update(&mut update, 1 << 20);
        client.feed(&update, &mut out, &mut tally, 7)?;
        assert!(out.len() > 80_000);
        Ok(())
    }
}
