//! etcd, one member, as it comes; its Put.
//!
//! The messages are the two of etcd's KV API that are sent, by their published field numbers (etcd's `rpc.proto`).

use std::path::Path;

use anyhow::Result;
use bytes::Bytes;
use prost::Message;

use super::{Disk, Fsyncs, START_LIMIT, Server, need};
use crate::load::grpc::framed;
use crate::load::{Protocol, Requests, Work};
use crate::process::{Process, free_address};
use crate::requests::{Ids, VALUE_BYTES, once};

const PUT: &str = "etcdserverpb.KV/Put";
const RANGE: &str = "etcdserverpb.KV/Range";

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

/// Starts it with its data in `folder/etcd`, and waits until it answers.
pub(crate) fn start(folder: &Path, disk: Disk) -> Result<Server> {
    let address = free_address()?;
    let clients = format!("http://{address}");
    let peers = format!("http://{}", free_address()?);
    let mut command = disk.command(&need("etcd")?)?;
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--name", "bench", "--initial-cluster", &format!("bench={peers}")]);
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--logger", "zap", "--log-level", "error"]);
    // More than a run can fill: etcd stops writing at 2 GiB by default.
    command.args(["--quota-backend-bytes", "8589934592"]);

    let mut process = Process::start("etcd", command, folder)?;
    let probe = framed(|buffer| Range { key: "probe".into() }.encode(buffer).unwrap_or_default());
    process.wait_until(START_LIMIT, || once(address, RANGE, probe.clone()))?;
    // A commit of its backend is two fdatasyncs; one count of each is shown, in etcd's favour.
    let names = &["etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_backend_commit_duration_seconds_count"];
    Ok(Server { process, address, fsyncs: Fsyncs::Metrics { address, names } })
}

/// Puts of 128 bytes under random keys.
pub(crate) fn put() -> Work {
    let requests = |slot| -> Requests {
        let mut ids = Ids::random(slot);
        let value = Bytes::from_static(&[b'v'; VALUE_BYTES]);
        Box::new(move || {
            let put = Put { key: Bytes::copy_from_slice(&ids.next()), value: value.clone() };
            Some(framed(|buffer| put.encode(buffer).unwrap_or_default()))
        })
    };
    Work { protocol: Protocol::Grpc { method: PUT, answered: None }, requests: Box::new(requests) }
}
