//! The cell's list: which servers there are, who leads, who is ready, who runs what.

use std::sync::Arc;

use flotilla_proto::cluster::v1::{Server, ServerEvent, State, server_event::Kind};

use super::{Link, endpoints};

/// The most servers of a list that are kept: no cell has as many.
const MOST: usize = 64;

/// The list, and what is left of former ones.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    /// Servers of a list that was forgotten, if they could be reached.
    pub(super) remembered: Vec<Arc<Link>>,
}

#[derive(Debug)]
struct Entry {
    server: Server,
    link: Arc<Link>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Every server of the list.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.entries.iter().map(|entry| &entry.link)
    }

    /// The ready servers that run a service.
    pub(super) fn suitable(&self, service: &str) -> impl Iterator<Item = &Arc<Link>> {
        self.entries.iter().filter(move |entry| suits(&entry.server, service)).map(|entry| &entry.link)
    }

    /// The leader, if it is known, ready, and runs the service.
    pub(super) fn leader(&self, service: &str) -> Option<&Arc<Link>> {
        self.leading().filter(|entry| suits(&entry.server, service)).map(|entry| &entry.link)
    }

    pub(super) fn has_leader(&self) -> bool {
        self.leading().is_some()
    }

    fn leading(&self) -> Option<&Entry> {
        // A former leader may not know yet that it isn't one any more.
        self.entries.iter().filter(|entry| entry.server.is_leader).max_by_key(|entry| entry.server.term)
    }

    /// A whole list takes the place of the former one.
    pub(super) fn replace(&mut self, servers: Vec<Server>, given: &[Arc<Link>]) {
        let former = std::mem::take(&mut self.entries);
        for server in servers {
            self.put(server, given, &former);
        }
        self.remembered.clear();
    }

    /// Something happened to a server.
    pub(super) fn apply(&mut self, event: ServerEvent, given: &[Arc<Link>]) {
        let kind = event.kind();
        let Some(server) = event.server else { return };
        if kind == Kind::Left {
            self.entries.retain(|entry| entry.server.id != server.id);
            return;
        }
        let former = self.entries.iter().position(|entry| entry.server.id == server.id);
        let former: Vec<Entry> = former.map(|at| self.entries.remove(at)).into_iter().collect();
        if server.is_leader {
            // Whoever led before doesn't any more, unless this is old news of it.
            let older = self.entries.iter_mut().filter(|entry| entry.server.term <= server.term);
            older.for_each(|entry| entry.server.is_leader = false);
        }
        let was_ready = former.first().is_some_and(|entry| entry.server.state() == State::Ready);
        let (state, id) = (server.state(), server.id);
        self.put(server, given, &former);
        let Some(entry) = self.entries.iter().find(|entry| entry.server.id == id) else { return };
        match state {
            State::Unreachable => entry.link.give_up(),
            State::Ready if !was_ready || kind == Kind::LeaderChanged => entry.link.recovered(),
            _ => {}
        }
    }

    /// The list can't be had any more: who leads and who is ready is unknown, and the servers are only
    /// places to try.
    pub(super) fn forget(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if !entries.is_empty() {
            self.remembered = entries.into_iter().map(|entry| entry.link).filter(|link| link.has_worked()).collect();
        }
    }

    /// The connection of a server that is the same as before is kept.
    fn put(&mut self, server: Server, given: &[Arc<Link>], former: &[Entry]) {
        let Some((endpoint, name)) = endpoints::listed(&server.address) else { return };
        let same = |link: &&Arc<Link>| link.name() == name;
        let known = former.iter().map(|entry| &entry.link).chain(&self.remembered);
        let link = given.iter().find(same).or_else(|| {
            let mut known = known.filter(same);
            known.find(|link| link.incarnation() == Some(server.incarnation.as_str()))
        });
        let link = link.cloned();
        let link = link.unwrap_or_else(|| Arc::new(Link::listed(endpoint, &name, &server.incarnation)));
        if self.entries.len() < MOST {
            self.entries.push(Entry { server, link });
        }
    }
}

fn suits(server: &Server, service: &str) -> bool {
    server.state() == State::Ready && (service.is_empty() || server.services.iter().any(|name| name == service))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: u64, term: u64, is_leader: bool) -> Server {
        Server {
            id,
            incarnation: format!("life-{id}"),
            address: format!("10.0.0.{id}:7400"),
            services: vec!["users".to_owned()],
            state: State::Ready.into(),
            is_leader,
            term,
            ..Server::default()
        }
    }

    fn table() -> Table {
        let mut table = Table::default();
        table.replace(vec![server(1, 1, true), server(2, 1, false), server(3, 1, false)], &[]);
        table
    }

    fn event(kind: Kind, server: Server) -> ServerEvent {
        ServerEvent { kind: kind.into(), server: Some(server), time: None }
    }

    fn leader(table: &Table) -> Option<&str> {
        table.leader("users").map(|link| link.name())
    }

    #[test]
    fn a_new_leader_takes_the_place_of_the_former() {
        let mut table = table();
        assert_eq!(leader(&table), Some("http://10.0.0.1:7400"));
        table.apply(event(Kind::LeaderChanged, server(2, 2, true)), &[]);
        assert_eq!(leader(&table), Some("http://10.0.0.2:7400"));
        table.apply(event(Kind::Changed, server(1, 1, true)), &[]);
        assert_eq!(leader(&table), Some("http://10.0.0.2:7400"), "the former's word is old");
        table.apply(event(Kind::Changed, server(2, 3, false)), &[]);
        table.apply(event(Kind::Left, server(1, 1, false)), &[]);
        assert_eq!(leader(&table), None);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_server_keeps_its_connection_until_it_is_another() {
        let mut table = table();
        let before = table.all().next().unwrap().clone();
        table.apply(event(Kind::Changed, server(1, 4, false)), &[]);
        assert!(table.all().any(|link| Arc::ptr_eq(link, &before)));
        table.apply(event(Kind::Changed, Server { incarnation: "another".to_owned(), ..server(1, 4, false) }), &[]);
        assert!(table.all().all(|link| !Arc::ptr_eq(link, &before)));
    }

    #[test]
    fn only_ready_servers_that_run_the_service_suit() {
        let mut table = table();
        table.apply(event(Kind::Changed, Server { services: vec!["records".to_owned()], ..server(3, 1, false) }), &[]);
        table.apply(event(Kind::Failed, Server { state: State::Unreachable.into(), ..server(2, 1, false) }), &[]);
        let names = |service| table.suitable(service).map(|link| link.name()).collect::<Vec<_>>();
        assert_eq!(names("users"), ["http://10.0.0.1:7400"]);
        assert_eq!(names("records"), ["http://10.0.0.3:7400"]);
        assert_eq!(names("").len(), 2);
    }

    #[test]
    fn what_is_left_of_a_forgotten_list_is_servers_that_were_reached() {
        let mut table = table();
        table.all().next().unwrap().end_check(true);
        table.forget();
        assert_eq!((table.len(), table.remembered.len()), (0, 1));
        assert!(!table.has_leader());
    }
}
