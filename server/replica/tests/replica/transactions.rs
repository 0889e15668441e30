//! Transactions do to the store what they do to plain maps, and a reading of
//! one moment sees that moment.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::support::{
    SPACE,
    model::{Key, Model, sorted},
};
use bytes::Bytes;
use flotilla_store::{
    Applied, Draft, Outcome, Row, RowKey, Store, Transaction, TransactionBuilder, hash::Hashes, transaction,
};
use proptest::prelude::*;

const TABLES: [&str; 3] = ["a", "ab", "a\0b"];

#[derive(Debug, Clone)]
enum Step {
    Absent(Row1),
    Exists(Row1),
    At(Row1, u64),
    Put(Row1, u16),
    Delete(Row1),
    DeleteRange(usize, u8, u8),
    Append(Row1, u16),
}

type Row1 = (usize, u8);

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn transactions_do_what_they_do_to_plain_maps(groups in groups(12)) {
        let mut tested = Tested::new();
        let mut copy = BTreeMap::new();
        for group in groups {
            tested.apply(&group, Some(&mut copy));
            prop_assert_eq!(tested.rows(), tested.model.rows.clone());
            prop_assert_eq!(&copy, &tested.model.rows, "a copy that follows the changes");
            tested.store.verify().expect("hashes are those of the rows");
        }
    }

    #[test]
    fn what_was_written_is_there_after_reopening(groups in groups(6)) {
        let mut tested = Tested::new();
        groups.iter().for_each(|group| tested.apply(group, None));
        let applied = tested.store.applied();
        tested.store.flush().expect("flushed");
        let Tested { store, directory, model, .. } = tested;
        drop(store);
        let store = reopen(directory.path());
        prop_assert_eq!(store.applied(), applied);
        prop_assert_eq!(rows(&store), model.rows);
        store.verify().expect("hashes are those of the rows");
    }

    #[test]
    fn a_reading_of_one_moment_sees_that_moment_while_writes_go_on(
        before in groups(8),
        during in groups(16),
        limit in 1..9_usize,
    ) {
        let mut tested = Tested::new();
        before.iter().for_each(|group| tested.apply(group, None));
        let moment = tested.model.rows.clone();
        let applied = tested.store.applied();
        let mut point = tested.store.point_in_time().expect("a point in time");
        let mut during = during.into_iter();
        let mut seen = Vec::new();
        loop {
            let encoded = point.next_rows(limit).expect("rows");
            if encoded.is_empty() {
                break;
            }
            seen.extend(encoded);
            during.by_ref().take(1).for_each(|group| tested.apply(&group, None));
        }
        prop_assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "in key order");
        prop_assert_eq!(point.hashes(), &Hashes::from_storage(&applied.hashes).expect("hashes"));
        prop_assert_eq!(point.applied(), &applied);
        let seen = seen.into_iter().filter_map(|(key, row)| {
            let (_, table, key) = RowKey::split(&key).expect("a key");
            let row = <Row as prost::Message>::decode(row).expect("a row");
            (!table.starts_with('\0')).then(|| ((table.to_owned(), Bytes::copy_from_slice(key)), row))
        });
        prop_assert_eq!(seen.collect::<BTreeMap<_, _>>(), moment);
    }

    #[test]
    fn a_scan_of_any_range_is_what_a_plain_map_has(groups in groups(6), start in bound(), end in bound(), table in 0..TABLES.len()) {
        let mut tested = Tested::new();
        groups.iter().for_each(|group| tested.apply(group, None));
        let range = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let scanned = |backwards| {
            let rows = tested.store.scan(SPACE, TABLES[table], range);
            let rows: Vec<_> = if backwards { rows.rev().collect() } else { rows.collect() };
            rows.into_iter().map(|row| row.expect("a row")).collect::<Vec<_>>()
        };
        let inside = |key: &[u8]| {
            let after = match &start { Bound::Included(start) => key >= &start[..], Bound::Excluded(start) => key > &start[..], Bound::Unbounded => true };
            let before = match &end { Bound::Included(end) => key <= &end[..], Bound::Excluded(end) => key < &end[..], Bound::Unbounded => true };
            after && before
        };
        let rows = tested.model.rows.iter().filter(|((name, key), _)| name == TABLES[table] && inside(key));
        let mut expected: Vec<(Bytes, Row)> = rows.map(|((_, key), row)| (key.clone(), row.clone())).collect();
        prop_assert_eq!(scanned(false), expected.clone());
        expected.reverse();
        prop_assert_eq!(scanned(true), expected);
    }
}

#[test]
fn two_lists_whose_names_run_together_count_apart() {
    let mut tested = Tested::new();
    let one = TransactionBuilder::new(SPACE).append("a", "b\0c", "1").build();
    let other = TransactionBuilder::new(SPACE).append("a\0b", "c", "1").build();
    tested.apply_all(&[one, other], None);
}

struct Tested {
    directory: tempfile::TempDir,
    store: Arc<Store>,
    model: Model,
    revision: u64,
    time: u64,
}

impl Tested {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path(), 1 << 20).expect("a store");
        Self { directory, store, model: Model::default(), revision: 0, time: 1_000 }
    }

    fn apply(&mut self, group: &[Vec<Step>], copy: Option<&mut BTreeMap<Key, Row>>) {
        let transactions: Vec<_> = group.iter().map(|steps| transaction(steps)).collect();
        self.apply_all(&transactions, copy);
    }

    /// Applies transactions as one draft, and each to the model.
    fn apply_all(&mut self, transactions: &[Transaction], mut copy: Option<&mut BTreeMap<Key, Row>>) {
        self.time += 10;
        let mut draft = Draft::new(&self.store);
        for transaction in transactions {
            transaction::check(transaction).expect("a transaction within limits");
            let revision = self.revision + 1;
            let outcome = draft.apply(transaction, revision, self.time).expect("an outcome");
            match (outcome, self.model.apply(transaction, revision, self.time)) {
                (Outcome::Conflict { condition }, Err(expected)) => assert_eq!(condition, expected),
                (Outcome::Committed { rows, results }, Ok(effect)) => {
                    assert_eq!(results, effect.results, "{transaction:?}");
                    assert_eq!(sorted(rows.clone()), effect.changes, "{transaction:?}");
                    self.revision = revision;
                    if let Some(copy) = copy.as_deref_mut() {
                        follow(copy, rows);
                    }
                }
                (outcome, expected) => panic!("{outcome:?} instead of {expected:?} of {transaction:?}"),
            }
        }
        let applied = Applied { revision: self.revision, time: self.time, ..Applied::default() };
        self.store.write(draft.finish(), applied).expect("written");
    }

    fn rows(&self) -> BTreeMap<Key, Row> {
        rows(&self.store)
    }
}

fn follow(copy: &mut BTreeMap<Key, Row>, changes: Vec<flotilla_store::RowChange>) {
    for change in changes {
        let key = (change.table, change.key);
        assert_eq!(copy.get(&key), change.before.as_ref(), "what was there before");
        match change.after {
            Some(row) => copy.insert(key, row),
            None => copy.remove(&key),
        };
    }
}

fn rows(store: &Store) -> BTreeMap<Key, Row> {
    let scan = |table: &'static str| {
        let rows = store.scan(SPACE, table, (Bound::Unbounded, Bound::Unbounded));
        rows.map(move |row| row.map(|(key, row)| ((table.to_owned(), key), row)).expect("a row"))
    };
    TABLES.into_iter().flat_map(scan).collect()
}

/// sled lets go of its lock some time after it is closed.
fn reopen(directory: &std::path::Path) -> Arc<Store> {
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match Store::open(directory, 1 << 20) {
            Ok(store) => return store,
            Err(error) => assert!(std::time::Instant::now() < limit, "{error}"),
        }
        std::thread::yield_now();
    }
}

fn transaction(steps: &[Step]) -> Transaction {
    let key = |key: &u8| vec![b'k', *key];
    steps
        .iter()
        .fold(TransactionBuilder::new(SPACE), |transaction, step| match step {
            Step::Absent((table, row)) => transaction.row_absent(TABLES[*table], key(row)),
            Step::Exists((table, row)) => transaction.row_exists(TABLES[*table], key(row)),
            Step::At((table, row), revision) => transaction.row_at(TABLES[*table], key(row), *revision),
            Step::Put((table, row), value) => transaction.put(TABLES[*table], key(row), value.to_string()),
            Step::Delete((table, row)) => transaction.delete(TABLES[*table], key(row)),
            Step::DeleteRange(table, start, end) => {
                transaction.delete_range(TABLES[*table], key(start), if *end == 6 { Vec::new() } else { key(end) })
            }
            Step::Append((table, list), value) => transaction.append(TABLES[*table], key(list), value.to_string()),
        })
        .build()
}

fn groups(most: usize) -> impl Strategy<Value = Vec<Vec<Vec<Step>>>> {
    let row = || (0..TABLES.len(), 0..6_u8);
    let step = prop_oneof![
        1 => row().prop_map(Step::Absent),
        1 => row().prop_map(Step::Exists),
        1 => (row(), 1..20_u64).prop_map(|(row, revision)| Step::At(row, revision)),
        6 => (row(), any::<u16>()).prop_map(|(row, value)| Step::Put(row, value)),
        3 => row().prop_map(Step::Delete),
        1 => (0..TABLES.len(), 0..6_u8, 0..7_u8).prop_map(|(table, start, end)| Step::DeleteRange(table, start, end)),
        3 => (row(), any::<u16>()).prop_map(|(row, value)| Step::Append(row, value)),
    ];
    let transaction = prop::collection::vec(step, 1..12);
    prop::collection::vec(prop::collection::vec(transaction, 1..4), 0..most)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    let key = prop_oneof![(0..6_u8).prop_map(|key| vec![b'k', key]), Just(Vec::new()), Just(vec![u8::MAX; 3])];
    prop_oneof![key.clone().prop_map(Bound::Included), key.prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}
