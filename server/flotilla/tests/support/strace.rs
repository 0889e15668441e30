//! What strace writes, read back: writes to files, syncs, and what went out on a port as HTTP/2.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    path::Path,
    time::{Duration, Instant},
};

const HTTP2_DATA: u8 = 0;
const HTTP2_HEADERS: u8 = 1;

/// strace's output. A place in it is a line's number.
pub(crate) struct Trace {
    calls: Vec<Call>,
}

/// One system call.
struct Call {
    name: String,
    /// The file's path or the socket's addresses, as `-yy` shows them.
    target: String,
    begun: usize,
    /// None: it did not succeed, or not before the process ended.
    ended: Option<usize>,
    /// All strings among its arguments.
    bytes: Vec<u8>,
}

/// A write to a file.
pub(crate) struct Write {
    pub(crate) file: String,
    pub(crate) ended: usize,
}

/// What went out on one stream of HTTP/2.
pub(crate) struct Answer {
    /// Where its first byte was sent.
    pub(crate) begun: usize,
    data: Vec<u8>,
}

/// The command line that traces a program which is put behind it; the program keeps the child's process id.
pub(crate) fn command(strace: &Path, output: &Path) -> Vec<OsString> {
    let calls = "trace=fdatasync,fsync,pwrite64,pwritev,pwritev2,write,writev,sendto,sendmsg";
    let flags =
        ["-D", "-f", "--seccomp-bpf", "-qq", "-yy", "-x", "-s", "100000", "-e", calls, "-e", "signal=none", "-o"];
    let mut words: Vec<OsString> = vec![strace.into()];
    words.extend(flags.map(OsString::from));
    words.extend([output.into(), "--".into()]);
    words
}

impl Trace {
    /// Waits until strace has written everything, and reads it.
    pub(crate) async fn read(path: &Path, limit: Instant) -> Self {
        let mut length = None;
        loop {
            let text = fs::read(path).unwrap_or_default();
            // strace ends with the process, which is gone: what doesn't grow any more is whole.
            if length == Some(text.len()) && text.ends_with(b"\n") {
                return Self::parse(&String::from_utf8_lossy(&text));
            }
            length = Some(text.len());
            assert!(Instant::now() < limit, "strace still writes to {}", path.display());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn parse(text: &str) -> Self {
        let mut calls: Vec<Call> = Vec::new();
        let mut unfinished: HashMap<&str, usize> = HashMap::new();
        for (line, text) in text.lines().enumerate() {
            let Some((process, rest)) = text.split_once(' ') else { continue };
            let rest = rest.trim_start();
            let ended = succeeded(rest).then_some(line);
            if rest.starts_with("<... ") {
                if let Some(call) = unfinished.remove(process) {
                    calls[call].ended = ended;
                }
                continue;
            }
            let Some((name, arguments)) = rest.split_once('(') else { continue };
            if rest.ends_with("<unfinished ...>") {
                unfinished.insert(process, calls.len());
            }
            let (name, target) = (name.to_owned(), target(arguments).to_owned());
            calls.push(Call { name, target, begun: line, ended, bytes: strings(arguments) });
        }
        Self { calls }
    }

    /// The first write of these bytes to a file whose path holds `path`.
    pub(crate) fn written(&self, path: &str, bytes: &[u8]) -> Option<Write> {
        let is_it =
            |call: &&Call| call.name.starts_with("pwrite") && call.target.contains(path) && holds(&call.bytes, bytes);
        let call = self.calls.iter().find(is_it)?;
        Some(Write { file: call.target.clone(), ended: call.ended? })
    }

    /// Where the first sync that began after a write, on the same file, returned.
    pub(crate) fn synced(&self, write: &Write) -> Option<usize> {
        let covers = |call: &&Call| {
            matches!(call.name.as_str(), "fdatasync" | "fsync") && call.target == write.file && call.begun > write.ended
        };
        self.calls.iter().find(covers)?.ended
    }

    /// Everything that was sent from a port on streams, each from its headers on.
    pub(crate) fn answers(&self, port: u16) -> Vec<Answer> {
        let from = format!(":{port}->");
        let mut sockets: HashMap<&str, Vec<&Call>> = HashMap::new();
        for call in self.calls.iter().filter(|call| call.target.contains(&from)) {
            sockets.entry(&call.target).or_default().push(call);
        }
        sockets.values().flat_map(|calls| streams(calls)).collect()
    }
}

impl Answer {
    /// Whether its data hold these bytes.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        holds(&self.data, bytes)
    }
}

/// The streams of one connection, from the bytes that were sent on it.
fn streams(calls: &[&Call]) -> Vec<Answer> {
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    for call in calls {
        places.extend(std::iter::repeat_n(call.begun, call.bytes.len()));
        bytes.extend_from_slice(&call.bytes);
    }
    let mut streams: HashMap<u32, Answer> = HashMap::new();
    let mut offset = 0;
    while let Some(header) = bytes.get(offset..offset + 9) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let content = bytes.get(offset + 9..offset + 9 + length).unwrap_or_default();
        if matches!(header[3], HTTP2_DATA | HTTP2_HEADERS) {
            let answer = streams.entry(stream).or_insert(Answer { begun: places[offset], data: Vec::new() });
            if header[3] == HTTP2_DATA {
                answer.data.extend_from_slice(content);
            }
        }
        offset += 9 + length;
    }
    streams.into_values().collect()
}

fn succeeded(rest: &str) -> bool {
    let result = rest.rsplit_once(" = ").map(|(_, result)| result.trim());
    result.is_some_and(|result| !result.starts_with('-') && !result.starts_with('?'))
}

/// What stands between `<` and `>` behind the descriptor. A socket's addresses hold `->`.
fn target(arguments: &str) -> &str {
    let inner = arguments.split_once('<').map_or("", |(_, rest)| rest);
    let end = match inner.starts_with("TCP") {
        true => inner.find("]>").map(|end| end + 1),
        false => inner.find('>'),
    };
    &inner[..end.unwrap_or(0)]
}

/// The bytes of all strings, which are in C's notation.
fn strings(arguments: &str) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = arguments.bytes().peekable();
    let mut inside = false;
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => inside = !inside,
            b'\\' if inside => found.extend(escaped(&mut rest)),
            byte if inside => found.push(byte),
            _ => {}
        }
    }
    found
}

fn escaped(rest: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).map_or(0, |value| value as u8);
    Some(match rest.next()? {
        b'x' => value(rest.next()?) << 4 | value(rest.next()?),
        digit @ b'0'..=b'7' => {
            let mut number = value(digit);
            for _ in 0..2 {
                let Some(digit) = rest.next_if(|byte| (b'0'..=b'7').contains(byte)) else { break };
                number = number << 3 | value(digit);
            }
            number
        }
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'f' => 12,
        other => other,
    })
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
