//! Which events are logged, changeable while the process runs.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Applies a [`Filter`].
pub type Filtering = reload::Layer<EnvFilter, Registry>;

/// The filter in force.
#[derive(Clone)]
pub struct Filter {
    /// As typed.
    ///
    /// Held while it is changed, so that both agree.
    current: Arc<Mutex<String>>,
    handle: reload::Handle<EnvFilter, Registry>,
    quiet: &'static str,
}

impl Filter {
    /// The filter `typed`, and the layer that applies it. The directive `quiet` limits its module
    /// further.
    ///
    /// # Errors
    /// If it cannot be parsed, in words for the operator.
    pub fn new(typed: &str, quiet: &'static str) -> Result<(Filter, Filtering), String> {
        let parsed = parse(typed, quiet).map_err(|why| format!("--log {why}"))?;
        let (layer, handle) = reload::Layer::new(parsed);
        let current = Arc::new(Mutex::new(typed.to_owned()));
        Ok((Filter { current, handle, quiet }, layer))
    }

    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// If it cannot be parsed, in words for the operator; the old one stays.
    pub fn set(&self, typed: &str) -> Result<(), String> {
        let parsed = parse(typed, self.quiet)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(parsed).map_err(|e| e.to_string())?;
        typed.clone_into(&mut current);
        Ok(())
    }
}

fn parse(typed: &str, quiet: &str) -> Result<EnvFilter, String> {
    let wrong = |why: String| {
        format!("{typed:?}: {why}; expected a level such as `info`, or `expirefs=debug,warn`")
    };
    // A word alone would be a module, with all of its events and nothing else: mostly it is a level
    // with a typing error.
    let is_word = |part: &&str| !part.contains(|c: char| "=[]{}\"/".contains(c));
    for part in typed.split(',').map(str::trim).filter(is_word) {
        if part.is_empty() || part.parse::<LevelFilter>().is_err() {
            return Err(wrong(format!("{part:?} is no level")));
        }
    }
    let mut parsed = EnvFilter::try_new(typed).map_err(|e| wrong(e.to_string()))?;
    if parsed.max_level_hint().is_none_or(|level| level == LevelFilter::TRACE) {
        let quiet = quiet.parse().map_err(|e| format!("{quiet}: {e}"))?;
        parsed = parsed.add_directive(quiet);
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_wrong_filter_is_refused_and_the_old_one_stays() {
        let (filter, layer) = Filter::new("warn,expirefs=info", "aws=debug").unwrap();
        let subscriber = Registry::default().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let enabled = || tracing::enabled!(target: "expirefs", tracing::Level::DEBUG);
            assert!(!enabled());
            for wrong in ["", "inof", "expirefs=loud", "warn,,info", "[", "expirefs::s3", " "] {
                let why = filter.set(wrong).expect_err(wrong);
                assert!(why.contains("expected a level"), "{why}");
                assert_eq!(filter.current(), "warn,expirefs=info");
                assert!(!enabled());
            }
            for right in ["expirefs=debug", "trace", "5", "DEBUG", "off,expirefs=trace"] {
                filter.set(right).expect(right);
                assert!(enabled(), "{right}");
                assert_eq!(filter.current(), right);
            }
            filter.set("off").unwrap();
            assert!(!enabled());
        });
    }
}
