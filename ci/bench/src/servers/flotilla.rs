//! Flotilla, the release binary in single mode; PutRecord, BatchWrite, GetUser and the loading of users.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use flotilla_proto::users::v1::{ListUsersRequest, ListUsersResponse, User};
use prost::Message;

use super::{Disk, Fsyncs, START_LIMIT, Server};
use crate::load::grpc::framed;
use crate::load::{Measured, Protocol, Requests, Work, exhaust};
use crate::process::{Process, free_address};
use crate::requests::{self, BATCH_ROWS, ID_SPACE, Ids, batch_ids, once};

/// The store's cache: `limits.cache` of the configuration, at its default.
pub(crate) const CACHE_BYTES: u64 = 64 << 20;

/// A ULID's text.
pub(crate) type UserId = [u8; 26];

/// A Flotilla server to be: its binary and where its data are.
#[derive(Clone)]
pub(crate) struct Flotilla {
    /// The binary.
    pub(crate) binary: PathBuf,
    /// Holds its configuration, output and data.
    pub(crate) folder: PathBuf,
    pub(crate) disk: Disk,
}

impl Flotilla {
    /// `data_dir` of its configuration.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("flotilla")
    }

    /// Starts it, and waits until it answers ListRecords with OK; says after how long that was.
    pub(crate) fn start(&self, limit: Duration) -> Result<(Server, Duration)> {
        let address = free_address()?;
        let health = free_address()?;
        let config = self.folder.join("flotilla.toml");
        let data = self.data();
        let text = format!(
            "services = [\"all\"]\ndata_dir = {data:?}\nlisten = \"{address}\"\nhealth_listen = \"{health}\"\n\
             [limits]\ncache = {CACHE_BYTES}\n"
        );
        std::fs::write(&config, text)?;
        if !self.binary.is_file() {
            bail!("{} is not there: cargo build --release -p flotilla, or --flotilla PATH", self.binary.display());
        }
        let mut command = self.disk.command(&self.binary)?;
        command.arg("serve").arg("--config").arg(&config);

        let mut process = Process::start("flotilla", command, &self.folder)?;
        process.wait_until(limit, || once(address, requests::LIST_RECORDS, requests::list_one()))?;
        let answered = process.started.elapsed();
        let fsyncs = Fsyncs::Metrics { address: health, names: &["flotilla_log_fsyncs_total"] };
        Ok((Server { process, address, fsyncs }, answered))
    }
}

/// Starts it with its data in `folder/flotilla`, and waits until it answers.
pub(crate) fn start(binary: &Path, folder: &Path, disk: Disk) -> Result<Server> {
    let flotilla = Flotilla { binary: binary.to_owned(), folder: folder.to_owned(), disk };
    Ok(flotilla.start(START_LIMIT)?.0)
}

/// PutRecord of 128-byte documents under random ids.
pub(crate) fn put() -> Work {
    let flotilla = requests::Flotilla::new();
    calls(requests::PUT_RECORD, move |ids| flotilla.put(ids.next()))
}

/// GetRecord of random ids.
pub(crate) fn get() -> Work {
    let flotilla = requests::Flotilla::new();
    calls(requests::GET_RECORD, move |ids| flotilla.get(ids.next()))
}

/// BatchWrite of 100 records under random ids.
pub(crate) fn batch() -> Work {
    let flotilla = requests::Flotilla::new();
    calls(requests::BATCH_WRITE, move |ids| flotilla.batch(batch_ids(ids.number(ID_SPACE))))
}

/// GetUser of random ones of these.
pub(crate) fn get_user(users: Arc<Vec<UserId>>) -> Work {
    calls(requests::GET_USER, move |ids| requests::get_user(&users[ids.number(users.len() as u32) as usize]))
}

/// CreateUser, without end.
pub(crate) fn create_user() -> Work {
    let next = Arc::new(AtomicU64::new(0));
    calls(requests::CREATE_USER, move |_ids| requests::create_user(next.fetch_add(1, Ordering::Relaxed)))
}

/// Writes records `0..rows`, each once, a hundred at a time, 16 batches in flight.
pub(crate) fn load_records(address: SocketAddr, rows: u32, limit: Duration) -> Result<Measured> {
    let next = Arc::new(AtomicU64::new(0));
    let flotilla = requests::Flotilla::new();
    let request = move |_slot| -> Requests {
        let (next, flotilla) = (next.clone(), flotilla.clone());
        Box::new(move || {
            let first = next.fetch_add(BATCH_ROWS.into(), Ordering::Relaxed) as u32;
            (first < rows).then(|| flotilla.batch(first..rows.min(first + BATCH_ROWS)))
        })
    };
    let protocol = Protocol::Grpc { method: requests::BATCH_WRITE, answered: None };
    exhaust(address, 16, limit, Work { protocol, requests: Box::new(request) })
}

/// Creates so many users, 1,024 in flight; their ids.
pub(crate) fn load_users(address: SocketAddr, users: u32, limit: Duration) -> Result<(Vec<UserId>, Measured)> {
    let next = Arc::new(AtomicU64::new(0));
    let request = move |_slot| -> Requests {
        let next = next.clone();
        Box::new(move || {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < users.into()).then(|| requests::create_user(number))
        })
    };
    let ids = Arc::new(Mutex::new(Vec::with_capacity(users as usize)));
    let collected = ids.clone();
    let collect = move |answer: Bytes| {
        let id = User::decode(answer).ok().and_then(|user| user.id.as_bytes().try_into().ok());
        collected.lock().unwrap_or_else(PoisonError::into_inner).extend::<Option<UserId>>(id);
    };
    let protocol = Protocol::Grpc { method: requests::CREATE_USER, answered: Some(Arc::new(collect)) };
    let created = exhaust(address, 1024, limit, Work { protocol, requests: Box::new(request) })?;
    let ids = std::mem::take(&mut *ids.lock().unwrap_or_else(PoisonError::into_inner));
    if ids.len() != users as usize {
        bail!("of {users} users created, {} were answered with a ULID", ids.len());
    }
    Ok((ids, created))
}

/// The ids of all users of a server, a page of a thousand after the other.
pub(crate) fn list_users(address: SocketAddr) -> Result<Vec<UserId>> {
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListUsersRequest { page_size: 1000, page_token, ..ListUsersRequest::default() };
        let request = framed(|buffer| request.encode(buffer).unwrap_or_default());
        let page = ListUsersResponse::decode(once(address, requests::LIST_USERS, request)?)?;
        ids.extend(page.users.iter().filter_map(|user| UserId::try_from(user.id.as_bytes()).ok()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ids.is_empty() {
        bail!("{address} has no users: load it with --call create-user first");
    }
    Ok(ids)
}

/// The bytes of a user's message, as GetUser answers it.
pub(crate) fn user_bytes(address: SocketAddr, id: &UserId) -> Result<usize> {
    Ok(once(address, requests::GET_USER, requests::get_user(id)).context("reading one user")?.len())
}

fn calls(method: &'static str, request: impl Fn(&mut Ids) -> Bytes + Clone + Send + 'static) -> Work {
    let requests = move |slot| -> Requests {
        let (request, mut ids) = (request.clone(), Ids::random(slot));
        Box::new(move || Some(request(&mut ids)))
    };
    Work { protocol: Protocol::Grpc { method, answered: None }, requests: Box::new(requests) }
}
