//! Lists, a page at a time.

use flotilla_proto::{records::v1 as records, threads::v1 as threads, users::v1 as users};

use crate::{CallError, Client, methods::Method};

/// The request of a list that comes in pages.
pub trait Listing: Method {
    /// What is listed.
    type Item: Send;

    /// Sets which page to ask for, and how large at most.
    fn ask(&mut self, page_token: String, page_size: i32);

    /// Takes a page's items and the next page's token out of an answer.
    fn take(answer: &mut Self::Answer) -> (Vec<Self::Item>, String);
}

macro_rules! listings {
    ($($request:ty => $item:ty, $field:ident;)*) => {
        $(impl Listing for $request {
            type Item = $item;

            fn ask(&mut self, page_token: String, page_size: i32) {
                (self.page_token, self.page_size) = (page_token, page_size);
            }

            fn take(answer: &mut Self::Answer) -> (Vec<$item>, String) {
                (std::mem::take(&mut answer.$field), std::mem::take(&mut answer.next_page_token))
            }
        })*
    };
}

listings! {
    users::ListUsersRequest => users::User, users;
    records::ListRecordsRequest => records::Record, records;
    records::ListTablesRequest => records::Table, tables;
    threads::ListThreadsRequest => threads::Thread, threads;
    threads::ListMembersRequest => threads::Member, members;
    threads::ListEventsRequest => threads::Event, events;
    threads::ListDevicesRequest => threads::Device, devices;
}

/// The pages of one list.
///
/// ```no_run
/// # async fn run(client: flotilla_client::Client) -> Result<(), flotilla_client::CallError> {
/// use flotilla_client::{Pages, proto::users::v1::ListUsersRequest};
///
/// let mut pages = Pages::new(&client, ListUsersRequest::default());
/// while let Some(page) = pages.next(1000).await? {
///     for user in page.items {
///         println!("{}  {}", user.id, user.email);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Pages<L> {
    client: Client,
    request: L,
    page_token: String,
    ended: bool,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page<L: Listing> {
    /// What is listed.
    pub items: Vec<L::Item>,
    /// Every change up to here is in it; 0 if the server doesn't say.
    pub revision: u64,
    /// What else the answer says.
    pub answer: L::Answer,
}

impl<L: Listing> Pages<L> {
    /// The list that the request asks for, from its beginning.
    pub fn new(client: &Client, request: L) -> Self {
        Self { client: client.clone(), request, page_token: String::new(), ended: false }
    }

    /// The next page, of at most so many items and never more than 1,000; none after the last. A page
    /// may be empty though more follow. One that failed can be asked for again.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn next(&mut self, at_most: usize) -> Result<Option<Page<L>>, CallError> {
        if self.ended {
            return Ok(None);
        }
        let page_size = i32::try_from(at_most.clamp(1, 1000)).unwrap_or(1000);
        self.request.ask(self.page_token.clone(), page_size);
        let response = self.client.answer(self.request.clone()).await?;
        let revision = response.metadata().get("flotilla-revision").and_then(|value| value.to_str().ok());
        let revision = revision.and_then(|text| text.parse().ok()).unwrap_or_default();
        let mut answer = response.into_inner();
        let items;
        (items, self.page_token) = L::take(&mut answer);
        self.ended = self.page_token.is_empty();
        Ok(Some(Page { items, revision, answer }))
    }
}
