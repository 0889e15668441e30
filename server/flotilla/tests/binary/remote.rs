//! Users in one cell, threads in another: two servers, of which each may die or come back with another history.

use std::{net::SocketAddr, path::Path, time::Duration};

use flotilla_client::{
    Client, Target,
    proto::{
        threads::v1::{
            AddMemberRequest, CreateThreadRequest, ListEventsRequest, ListMembersRequest, Thread, event::Kind,
        },
        users::v1::{CreateUserRequest, UpdateUserRequest, User},
    },
};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::{Ended, PATIENCE, Server, directory, flotilla};

fn users_at(data_dir: &Path, api: SocketAddr) -> Server {
    Server::start_of("users", data_dir, &["--listen", &api.to_string(), "--health-listen", "127.0.0.1:0"])
}

fn threads_asking(data_dir: &Path, users: SocketAddr) -> Server {
    // The first address leads nowhere.
    let users = format!("remote_services.users=127.0.0.1:1,{users}");
    Server::start_of("threads", data_dir, &["--listen", "127.0.0.1:0", "--set", &users])
}

fn kill(mut server: Server) -> SocketAddr {
    server.process.signal(Signal::KILL);
    server.process.wait();
    server.api
}

async fn client(server: &Server) -> Client {
    Client::connect(&Target::new(server.endpoint())).await.unwrap()
}

async fn create(users: &Server, name: &str) -> String {
    let user = User { email: format!("{name}@example.org"), display_name: name.to_owned(), ..User::default() };
    client(users).await.call(CreateUserRequest { user: Some(user), ..Default::default() }).await.unwrap().id
}

async fn rename(users: &Server, id: &str, name: &str) {
    let user = User { id: id.to_owned(), display_name: name.to_owned(), ..User::default() };
    let request = UpdateUserRequest { user: Some(user), ..Default::default() };
    client(users).await.call(request).await.unwrap();
}

async fn thread(threads: &Server, owner: &str, member: &str) -> String {
    let thread = Thread { display_name: "harbour".to_owned(), ..Thread::default() };
    let request =
        CreateThreadRequest { thread: Some(thread), member_user_ids: vec![member.to_owned()], ..Default::default() };
    client(threads).await.acting_as(owner).unwrap().call(request).await.unwrap().id
}

/// Every name that members of a thread were told to have from then on.
async fn told(threads: &Server, reader: &str, thread: &str) -> Vec<String> {
    let request = ListEventsRequest { thread_id: thread.to_owned(), page_size: 1000, ..Default::default() };
    let events = client(threads).await.acting_as(reader).unwrap().call(request).await.unwrap().events;
    let changed = events.into_iter().filter_map(|event| match event.kind {
        Some(Kind::MemberChanged(changed)) => changed.member.map(|member| member.display_name),
        _ => None,
    });
    changed.collect()
}

/// Waits until the names that were told end with one, and gives all of them.
async fn told_up_to(threads: &Server, reader: &str, thread: &str, last: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = told(threads, reader, thread).await;
        if told.last().is_some_and(|name| name == last) {
            return told;
        }
        assert!(Instant::now() < deadline, "{last} wasn't told, only {told:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn names(threads: &Server, reader: &str, thread: &str) -> Vec<String> {
    let request = ListMembersRequest { thread_id: thread.to_owned(), ..Default::default() };
    let members = client(threads).await.acting_as(reader).unwrap().call(request).await.unwrap().members;
    let mut names: Vec<String> = members.into_iter().map(|member| member.display_name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_in_another_cell_is_told_once_whichever_server_is_killed() {
    let (users_dir, threads_dir) = (directory(), directory());
    let users = Server::start_of("users", users_dir.path(), &["--listen", "127.0.0.1:0"]);
    let threads = threads_asking(threads_dir.path(), users.api);
    let (ada, bob) = (create(&users, "Ada").await, create(&users, "Bob").await);
    let harbour = thread(&threads, &ada, &bob).await;
    assert_eq!(names(&threads, &ada, &harbour).await, ["Ada", "Bob"]);

    rename(&users, &bob, "Robert").await;
    assert_eq!(told_up_to(&threads, &ada, &harbour, "Robert").await, ["Robert"]);

    kill(threads);
    rename(&users, &bob, "Rob").await;
    let threads = threads_asking(threads_dir.path(), users.api);
    assert_eq!(told_up_to(&threads, &ada, &harbour, "Rob").await, ["Robert", "Rob"]);

    let address = kill(users);
    let users = users_at(users_dir.path(), address);
    rename(&users, &bob, "Bobby").await;
    rename(&users, &ada, "Augusta").await;
    assert_eq!(told_up_to(&threads, &ada, &harbour, "Augusta").await, ["Robert", "Rob", "Bobby", "Augusta"]);
    assert_eq!(names(&threads, &ada, &harbour).await, ["Augusta", "Bobby"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_are_told_once_after_the_other_cell_began_another_history() {
    let (users_dir, restored_dir, threads_dir) = (directory(), directory(), directory());
    let users = Server::start_of("users", users_dir.path(), &["--listen", "127.0.0.1:0"]);
    let threads = threads_asking(threads_dir.path(), users.api);
    let (ada, bob) = (create(&users, "Ada").await, create(&users, "Bob").await);
    let carol = create(&users, "Carol").await;
    let harbour = thread(&threads, &ada, &bob).await;
    rename(&users, &bob, "Robert").await;
    told_up_to(&threads, &ada, &harbour, "Robert").await;
    let file = restored_dir.path().join("users.backup");
    let saved = tokio::task::block_in_place(|| users.run(&["backup", "--out", file.to_str().unwrap()]));
    assert_eq!(saved.code, Some(0), "{}", saved.stderr);

    // Restored, its revisions are far above what they were.
    let address = kill(users);
    let data = restored_dir.path().join("data");
    let made = Ended::of(flotilla(&["restore"]).arg("--in").arg(&file).arg("--data-dir").arg(&data));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let restored = users_at(&data, address);
    rename(&restored, &bob, "Rob").await;
    assert_eq!(told_up_to(&threads, &ada, &harbour, "Rob").await, ["Robert", "Rob"]);
    let add = AddMemberRequest { thread_id: harbour.clone(), user_id: carol.clone(), ..Default::default() };
    client(&threads).await.acting_as(&ada).unwrap().call(add).await.unwrap();

    // And with the former data again they are below: the name of then is told, and so are changes.
    kill(restored);
    let users = users_at(users_dir.path(), address);
    assert_eq!(told_up_to(&threads, &ada, &harbour, "Robert").await, ["Robert", "Rob", "Robert"]);
    rename(&users, &carol, "Caroline").await;
    let all = told_up_to(&threads, &ada, &harbour, "Caroline").await;
    assert_eq!(all, ["Robert", "Rob", "Robert", "Caroline"]);
    assert_eq!(names(&threads, &ada, &harbour).await, ["Ada", "Caroline", "Robert"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_a_service_of_a_cell_that_is_gone_is_answered_so_that_trying_again_helps() {
    let (users_dir, threads_dir) = (directory(), directory());
    let users = Server::start_of("users", users_dir.path(), &["--listen", "127.0.0.1:0"]);
    let threads = threads_asking(threads_dir.path(), users.api);
    let (ada, bob) = (create(&users, "Ada").await, create(&users, "Bob").await);
    let address = kill(users);
    let creating = thread(&threads, &ada, &bob);
    let back = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| users_at(users_dir.path(), address))
    };
    let (harbour, _users) = tokio::join!(creating, back);
    assert_eq!(names(&threads, &ada, &harbour).await, ["Ada", "Bob"]);
}
