//! Update masks: which fields an update sets.

use prost_types::FieldMask;

use crate::fields::FieldViolation;

/// The fields that an update sets, of those that it may: those that the mask
/// names; all for `*`; and those for which `populated` holds if there is no
/// mask, or an empty one.
///
/// # Errors
/// If the mask names anything else.
pub fn resolve(
    mask: Option<&FieldMask>,
    updatable: &'static [&'static str],
    populated: impl Fn(&str) -> bool,
) -> Result<Vec<&'static str>, FieldViolation> {
    let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    if paths.is_empty() {
        return Ok(updatable.iter().copied().filter(|path| populated(path)).collect());
    }
    if paths == ["*"] {
        return Ok(updatable.to_vec());
    }
    if let Some(unknown) = paths.iter().find(|path| !updatable.contains(&path.as_str())) {
        let possible = updatable.join(", ");
        let problem = match unknown.as_str() {
            "*" => format!("names * and other paths; use * alone, or some of {possible}"),
            unknown => format!("names {unknown:?}; possible are {possible}, or * alone"),
        };
        return Err(FieldViolation::new("update_mask", problem));
    }
    Ok(updatable.iter().copied().filter(|known| paths.iter().any(|path| path == known)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATABLE: &[&str] = &["email", "name", "labels"];

    fn resolved(paths: &[&str]) -> Result<Vec<&'static str>, FieldViolation> {
        let mask = FieldMask { paths: paths.iter().map(ToString::to_string).collect() };
        resolve(Some(&mask), UPDATABLE, |path| path == "name")
    }

    #[test]
    fn a_mask_sets_the_fields_it_names_each_once() {
        assert_eq!(resolved(&["labels", "email", "labels"]), Ok(vec!["email", "labels"]));
    }

    #[test]
    fn a_star_sets_every_field() {
        assert_eq!(resolved(&["*"]), Ok(UPDATABLE.to_vec()));
    }

    #[test]
    fn without_a_mask_the_populated_fields_are_set() {
        assert_eq!(resolve(None, UPDATABLE, |path| path != "email"), Ok(vec!["name", "labels"]));
        assert_eq!(resolved(&[]), Ok(vec!["name"]));
    }

    #[test]
    fn a_path_that_is_unknown_or_output_only_is_refused_by_name() {
        for path in ["id", "create_time", "labels.color", "", "Email"] {
            let violation = resolved(&["name", path]).expect_err(path);
            assert!(violation.problem.contains(&format!("{path:?}")), "{}", violation.problem);
        }
        assert!(resolved(&["*", "name"]).expect_err("a star and more").problem.contains("* alone"));
    }
}
