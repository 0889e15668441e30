//! ListDevices: who is connected, and how far each device has come.

use std::collections::BTreeMap;

use flotilla_kit::{Call, Context, Error, time};
use flotilla_proto::threads::v1::{Device, ListDevicesRequest, ListDevicesResponse};

use crate::{
    membership,
    push::{Hub, Presence},
    row, rules,
    tables::{CURSORS, MEMBERS, cursor_key, member_key, split_ids},
};

/// A cell has one server in this version, so there is no other to ask.
pub(crate) async fn list(
    context: &Context,
    hub: &Hub,
    call: &Call,
    request: ListDevicesRequest,
) -> Result<(u64, ListDevicesResponse), Error> {
    let caller = rules::caller(call)?;
    let thread = request.thread_id.as_str();
    rules::thread_id("thread_id", thread)?;
    let page = context.page(call, &[thread], request.page_size, &request.page_token)?;
    let view = context.read(call).await?;
    membership::require(&view, thread, caller)?;

    let after = page.after().map(|after| after.as_ref()).unwrap_or_default();
    let connected = hub.connected(thread).into_iter().map(|(user, device, presence)| {
        (
            cursor_key(thread, &user, &device),
            Device {
                user_id: user,
                device,
                connected: true,
                server_id: context.server_id(),
                connect_time: Some(connect_time(&presence)),
                ..Device::default()
            },
        )
    });
    let mut connected: BTreeMap<String, Device> = connected.filter(|(key, _)| key.as_bytes() > after).collect();
    let stored = view.page(CURSORS, thread.as_bytes(), &page, |key, found| {
        let (_, user, device) = split_ids(key)?;
        let cursor = row::decode_cursor(&found)?;
        let mut known = connected.remove(&cursor_key(thread, user, device)).unwrap_or_default();
        (known.user_id, known.device) = (user.to_owned(), device.to_owned());
        // A sequence of another history says nothing about this one's events.
        if cursor.history == context.history() {
            (known.sequence, known.ack_time) = (cursor.sequence, Some(time::timestamp(found.update_time)));
        }
        Ok(Some(known))
    })?;

    // Those that are connected and have stored nothing yet belong in between.
    let mut devices = stored.items;
    let last_stored = devices.last().map(|last| cursor_key(thread, &last.user_id, &last.device));
    let more_stored = !stored.next_page_token.is_empty();
    for (key, device) in connected {
        let in_range = !more_stored || last_stored.as_ref().is_some_and(|last| key < *last);
        let is_member = || view.get(MEMBERS, member_key(thread, &device.user_id).as_bytes());
        if in_range && is_member()?.is_some() {
            devices.push(device);
        }
    }
    devices.sort_by(|a, b| (&a.user_id, &a.device).cmp(&(&b.user_id, &b.device)));
    let cut = devices.len() > page.size() || more_stored;
    devices.truncate(page.size());
    let next_page_token = match devices.last() {
        Some(last) if cut => page.next_token(cursor_key(thread, &last.user_id, &last.device).as_bytes()),
        _ => String::new(),
    };
    let response = ListDevicesResponse { devices, next_page_token, silent_servers: Vec::new() };
    Ok((view.revision(), response))
}

fn connect_time(presence: &Presence) -> prost_types::Timestamp {
    prost_types::Timestamp::from(presence.since)
}
