//! `threads devices`.

use clap::Args;
use flotilla_client::{Client, Pages};
use flotilla_proto::threads::v1::{Device, ListDevicesRequest};

use super::{find, names::Names};
use crate::cli::{
    Failure,
    output::Output,
    row::{Row, time},
    talk,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Devices {
    /// The thread's id or name
    thread: String,
    /// At most this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

impl Devices {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let thread = find::thread(client, &self.thread).await?;
        let request = ListDevicesRequest { thread_id: thread.id, ..ListDevicesRequest::default() };
        let mut names = Names::new(client);
        let for_a_person = output.is_for_a_person();
        let mut list = output.list("devices");
        let mut silent = Vec::new();
        let mut pages = Pages::new(client, request);
        let mut left = self.limit.unwrap_or(usize::MAX);
        while left > 0 {
            let Some(page) = pages.next(left).await? else { break };
            let devices = page.items.get(..left).unwrap_or(&page.items);
            for device in devices.iter().filter(|_| for_a_person) {
                names.prepare_user(&device.user_id).await;
            }
            let row = |device| Seen { device, user: names.user(&device.user_id), newest: thread.last_sequence };
            list.page_as(devices, &devices.iter().map(row).collect::<Vec<_>>())?;
            left -= devices.len();
            for server in page.answer.silent_servers {
                if !silent.contains(&server) {
                    silent.push(server);
                }
            }
        }
        list.end()?;
        for server in silent {
            talk::warning(&format!(
                "server {} at {} did not answer ({}): devices connected there are shown as away, or missing",
                server.server_id, server.address, server.message
            ));
        }
        Ok(())
    }
}

/// A line of the table.
struct Seen<'a> {
    device: &'a Device,
    user: &'a str,
    newest: u64,
}

impl Row for Seen<'_> {
    const COLUMNS: &'static [&'static str] = &["USER", "DEVICE", "CONNECTED", "SINCE", "READ", "ACKNOWLEDGED"];

    fn cells(&self) -> Vec<String> {
        let device = self.device;
        let connected = match device.connected {
            true => format!("to server {}", device.server_id),
            false => "away".to_owned(),
        };
        vec![
            self.user.to_owned(),
            device.device.clone(),
            connected,
            time(device.connect_time.as_ref()),
            // The thread may have grown since it was read.
            format!("{} of {}", device.sequence, self.newest.max(device.sequence)),
            time(device.ack_time.as_ref()),
        ]
    }
}
