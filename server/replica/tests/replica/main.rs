//! One server's log, rows and feed, on real disks and simulated ones. One binary, because each links
//! openraft and sled anew.

mod backup;
mod cell;
mod damage;
mod feed;
mod power_cut;
mod reopen;
mod support;
mod transactions;
