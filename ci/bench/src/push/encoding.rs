//! The same list of 1,000 events as protobuf and as JSON: bytes, and the time to encode and decode it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flotilla_proto::threads::v1::{Event, ListEventsResponse, Message as Posted, event::Kind};
use prost::Message;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::Push;
use super::client::tally::text;
use super::sheet::Sheet;
use crate::results::Unit;
use crate::statistics::median;
use crate::table::number;

const EVENTS: u32 = 1_000;
const THREAD: &str = "01JD8ZS1T4V6Q2M9X3C7B5N0KF";
const USER: &str = "01JD8ZRWQH5T3Y7E1G9P4A6D2S";

/// As somebody would write it who has no protobuf: names and values as in its JSON form.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlainList {
    events: Vec<PlainEvent>,
}

#[derive(PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlainEvent {
    thread_id: String,
    sequence: String,
    time: String,
    user_id: String,
    request_id: String,
    message: PlainMessage,
}

#[derive(PartialEq, Debug, Serialize, Deserialize)]
struct PlainMessage {
    text: String,
}

pub(crate) fn measure(push: &Push) -> Result<Sheet> {
    let (list, plain) = ((0..EVENTS).map(event).collect(), (0..EVENTS).map(plain_event).collect());
    let list = ListEventsResponse { events: list, ..ListEventsResponse::default() };
    let plain = PlainList { events: plain };
    let (encoded, json) = (list.encode_to_vec(), serde_json::to_vec(&plain)?);
    ensure!(ListEventsResponse::decode(&encoded[..])? == list, "protobuf gave back something else");
    ensure!(serde_json::from_slice::<PlainList>(&json)? == plain, "JSON gave back something else");
    let (mut protobuf_times, mut json_times) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let begun = Instant::now();
    while begun.elapsed() < push.time * 2 {
        protobuf_times[0].push(timed(|| black_box(&list).encode_to_vec()));
        protobuf_times[1].push(timed(|| ListEventsResponse::decode(black_box(&encoded[..])).map(drop)));
        json_times[0].push(timed(|| serde_json::to_vec(black_box(&plain)).map(drop)));
        json_times[1].push(timed(|| serde_json::from_slice::<PlainList>(black_box(&json)).map(drop)));
    }
    let middle =
        |times: &[Vec<f64>; 2]| times.clone().map(|times| median(times.into_iter().skip(3)).unwrap_or_default());
    let (ours, theirs) = (middle(&protobuf_times), middle(&json_times));
    let mut sheet = Sheet::new("1,000 messages of 128 bytes as a list", &["", "bytes", "encode", "decode", "both"]);
    let time = |time| number(time, Unit::Microseconds);
    for (name, bytes, times) in [("protobuf", encoded.len(), ours), ("JSON", json.len(), theirs)] {
        let both = time(times[0] + times[1]);
        sheet.row([name.to_owned(), bytes.to_string(), time(times[0]), time(times[1]), both]);
    }
    sheet.note(format!(
        "JSON takes {:.2} × the bytes and {:.1} × the time. prost, and serde_json of plain structs with the fields of the \
         event; its times and numbers stay strings.",
        json.len() as f64 / encoded.len() as f64,
        (theirs[0] + theirs[1]) / (ours[0] + ours[1])
    ));
    Ok(sheet)
}

fn timed<T>(work: impl Fn() -> T) -> f64 {
    let begun = Instant::now();
    drop(black_box(work()));
    let time: Duration = begun.elapsed();
    time.as_nanos() as f64 / 1000.0
}

fn words(number: u32) -> String {
    String::from_utf8_lossy(&text(number, 128)).into_owned()
}

fn request_id(number: u32) -> String {
    format!("01JD8ZT0000000000000{number:06}")
}

fn event(number: u32) -> Event {
    Event {
        thread_id: THREAD.to_owned(),
        sequence: 100_000 + u64::from(number),
        time: Some(Timestamp { seconds: 1_764_000_000 + i64::from(number), nanos: 123_456_000 }),
        user_id: USER.to_owned(),
        request_id: request_id(number),
        kind: Some(Kind::Message(Posted { text: words(number), data: None })),
    }
}

fn plain_event(number: u32) -> PlainEvent {
    PlainEvent {
        thread_id: THREAD.to_owned(),
        sequence: (100_000 + number).to_string(),
        time: format!("2025-11-24T16:{:02}:{:02}.123456Z", number / 60, number % 60),
        user_id: USER.to_owned(),
        request_id: request_id(number),
        message: PlainMessage { text: words(number) },
    }
}
