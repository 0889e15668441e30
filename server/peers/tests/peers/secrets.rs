//! Secret files.

use flotilla_peers::{Secret, SecretError};

use crate::harness::{secret, secret_file};

fn refused(content: &[u8], mode: u32) -> SecretError {
    let directory = tempfile::tempdir().unwrap();
    Secret::read(&secret_file(&directory, content, mode)).unwrap_err()
}

#[test]
fn a_secret_never_prints_itself() {
    assert_eq!(format!("{:?}", secret("\n sixteen-bytes-ok \n")), "Secret(…)");
}

#[test]
fn a_secret_is_refused_that_is_missing_empty_short_long_or_of_other_characters() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Secret::read(&directory.path().join("none")).unwrap_err();
    assert!(matches!(missing, SecretError::Read(..)), "{missing:?}");
    assert!(matches!(refused(b" \n", 0o600), SecretError::Empty(_)));
    assert!(matches!(refused(b"fifteen-bytes-o", 0o600), SecretError::Short { length: 15, .. }));
    assert!(matches!(refused(&[b'a'; 100_000], 0o600), SecretError::Long(_)));
    assert!(matches!(refused("sechzehn-Zeichen-ä".as_bytes(), 0o600), SecretError::Characters(_)));
}

#[test]
fn a_secret_that_everybody_can_read_is_refused_with_what_to_do() {
    let error = refused(b"sixteen-bytes-ok", 0o644);
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn a_secret_that_the_group_can_read_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    Secret::read(&secret_file(&directory, b"sixteen-bytes-ok", 0o640)).unwrap();
}
