//! The lifecycle rule of S3 that deletes what a sweep would (`--lifecycle-advice`), where there is one.

use std::time::Duration;

use serde_json::{Value, json};

use super::totals::Lifetimes;

const DAY: u64 = 86_400;

/// A rule, and in which respects it differs from a sweep, for people.
#[derive(Debug)]
pub struct Advice {
    /// For `aws s3api put-bucket-lifecycle-configuration`.
    pub configuration: Value,
    pub differs: Vec<String>,
}

impl Lifetimes {
    /// The rule for all objects whose keys begin with `prefix`.
    ///
    /// # Errors
    /// Why there is none, in words for the operator.
    pub fn advice(&self, prefix: &str, uploads: Option<Duration>) -> Result<Advice, String> {
        if let Some(key) = &self.endless {
            return Err(format!(
                "no lifecycle rule does the same: {key:?} never expires, and a rule deletes all \
                 objects of a prefix by their age"
            ));
        }
        let (Some(least), Some(most)) = (self.least, self.most) else {
            return Err("no lifecycle rule does the same: no object has an expiry".to_owned());
        };
        let days = most.as_secs().div_ceil(DAY).max(1);
        let mut rule = json!({
            "ID": format!("expirefs-{}", if prefix.is_empty() { "all" } else { prefix }),
            "Status": "Enabled",
            "Filter": { "Prefix": prefix },
            "Expiration": { "Days": days },
        });
        if let Some(age) = uploads {
            let days = age.as_secs().div_ceil(DAY).max(1);
            rule["AbortIncompleteMultipartUpload"] = json!({ "DaysAfterInitiation": days });
        }
        let hours = |of: Duration| format!("{:.1} h", of.as_secs_f64() / 3600.0);
        let differs = vec![
            format!(
                "it counts {days} days from the creation of each object, not to its Expires: the {} \
                 objects live {} to {}",
                self.count,
                hours(least),
                hours(most)
            ),
            "it deletes after the midnight UTC that follows, at some time; S3 does not bill an object \
             from then on"
                .to_owned(),
            format!(
                "an object of the shortest life stays up to {} longer, and is billed for that",
                hours(Duration::from_secs((days + 1) * DAY).saturating_sub(least))
            ),
            "it deletes all objects of the prefix by their age, also later ones without an expiry or \
             with a longer one"
                .to_owned(),
        ];
        Ok(Advice { configuration: json!({ "Rules": [rule] }), differs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(least: u64, most: u64) -> Advice {
        let [least, most] = [least, most].map(|hours| Some(Duration::from_secs(3600 * hours)));
        let lifetimes = Lifetimes { count: 7, least, most, endless: None };
        lifetimes.advice("p/", Some(Duration::from_secs(3600))).unwrap()
    }

    #[test]
    fn a_rule_deletes_no_object_before_its_expiry() {
        for (least, most, days) in [(1, 1, 1), (1, 24, 1), (1, 25, 2), (48, 49, 3)] {
            let Advice { configuration, differs } = advice(least, most);
            let rule = &configuration["Rules"][0];
            assert_eq!(rule["Expiration"]["Days"], days, "{most} h");
            assert_eq!(rule["Filter"]["Prefix"], "p/");
            assert_eq!(rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"], 1);
            let longer = format!("up to {}.0 h longer", (days + 1) * 24 - least);
            assert!(differs.iter().any(|line| line.contains(&longer)), "{differs:?}");
        }
    }

    #[test]
    fn there_is_no_rule_where_an_object_never_expires() {
        let endless = Lifetimes { endless: Some("p/keep".into()), ..Lifetimes::default() };
        assert!(endless.advice("p/", None).unwrap_err().contains("\"p/keep\" never expires"));
        assert!(Lifetimes::default().advice("", None).unwrap_err().contains("no object has"));
    }
}
