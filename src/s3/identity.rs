//! Credentials that the store no longer accepts are asked for anew.
//!
//! The SDK keeps credentials until they expire, and what it has read from a profile as long as the
//! process lives. Some are revoked or replaced before: keys in a file, those of a
//! `credential_process`, an SSO token. [`Identities`] forgets both after a refusal, and the request
//! is sent once more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::{ConfigLoader, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, future::ProvideCredentials as Providing,
};
use aws_sdk_s3::config::{
    ConfigBag, IdentityCache, ResolveCachedIdentity, RuntimeComponents, SharedIdentityCache,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::identity::{IdentityFuture, SharedIdentityResolver};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::info;

use super::on_its_own_thread;
use crate::error::Error;

/// Credentials are asked for anew at most this often if the store says that they are not valid (S3
/// API reference, "Error responses"), and if it only refuses, which may have another reason: a HEAD
/// has no error code.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_OF_DOUBT: Duration = Duration::from_secs(10);
const NOT_VALID: [&str; 5] = [
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];

/// Whether this error code is about the credentials.
pub fn is_of_credentials(code: &str) -> bool {
    NOT_VALID.contains(&code)
}

/// Makes the configuration anew: environment and profile are read again.
type Load = Arc<dyn Fn() -> BoxFuture<'static, SdkConfig> + Send + Sync>;

/// The identity of a bucket's requests.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

struct Shared {
    load: Load,
    state: Mutex<State>,
}

struct State {
    /// Counts the times at which everything was forgotten.
    generation: u64,
    forgotten: Option<Instant>,
    cache: SharedIdentityCache,
    /// `None`: to be made anew.
    provider: Option<SharedCredentialsProvider>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identities")
    }
}

impl Identities {
    /// `loader` makes the configuration that `shared` was made of.
    pub fn new(
        shared: &SdkConfig,
        loader: impl Fn() -> ConfigLoader + Send + Sync + 'static,
    ) -> Identities {
        let state = State {
            generation: 0,
            forgotten: None,
            cache: IdentityCache::lazy().build(),
            provider: shared.credentials_provider(),
        };
        let load: Load = Arc::new(move || Box::pin(loader().load()));
        Identities(Arc::new(Shared { load, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which identity a request that begins now is sent with.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Whether a request of this generation that failed should be sent once more, with credentials
    /// that are asked for anew.
    pub fn is_outdated(&self, generation: u64, error: &Error) -> bool {
        let pause = match error {
            Error::Denied(report) | Error::Refused(report) => match report.code.as_deref() {
                Some(code) if is_of_credentials(code) => PAUSE,
                Some(_) => return false,
                None => PAUSE_OF_DOUBT,
            },
            _ => return false,
        };
        let mut state = self.state();
        // Another request has found it out.
        if state.generation != generation {
            return true;
        }
        if state.forgotten.is_some_and(|at| at.elapsed() < pause) {
            return false;
        }
        info!("the credentials are asked for anew: {error}");
        state.generation += 1;
        state.forgotten = Some(Instant::now());
        state.cache = IdentityCache::lazy().build();
        state.provider = None;
        true
    }

    async fn provider(&self) -> Option<SharedCredentialsProvider> {
        let (provider, generation) = {
            let state = self.state();
            (state.provider.clone(), state.generation)
        };
        if provider.is_some() {
            return provider;
        }
        let provider = (self.0.load)().await.credentials_provider();
        let mut state = self.state();
        if state.generation == generation {
            state.provider.clone_from(&provider);
        }
        provider
    }
}

impl ProvideCredentials for Identities {
    fn provide_credentials<'a>(&'a self) -> Providing<'a>
    where
        Self: 'a,
    {
        let identities = self.clone();
        Providing::new(on_its_own_thread(async move {
            match identities.provider().await {
                Some(provider) => provider.provide_credentials().await,
                None => Err(CredentialsError::not_loaded("no provider")),
            }
        }))
    }
}

impl ResolveCachedIdentity for Identities {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        components: &'a RuntimeComponents,
        bag: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        let cache = self.state().cache.clone();
        IdentityFuture::new(async move {
            cache.resolve_cached_identity(resolver, components, bag).await
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        bag: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.state().cache.validate_base_client_config(components, bag)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        bag: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.state().cache.validate_final_config(components, bag)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use aws_config::BehaviorVersion;
    use aws_credential_types::Credentials;

    use super::*;
    use crate::error::Report;

    /// Reads a file on a disk that does not answer, until it is told that the disk answers.
    #[derive(Debug)]
    struct Slow(Mutex<mpsc::Receiver<()>>);

    impl ProvideCredentials for Slow {
        fn provide_credentials<'a>(&'a self) -> Providing<'a>
        where
            Self: 'a,
        {
            Providing::new(async {
                let told = self.0.lock().unwrap().recv();
                told.map_err(CredentialsError::provider_error)?;
                Ok(Credentials::new("key", "secret", None, None, "test"))
            })
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_file_of_credentials_that_cannot_be_read_does_not_stop_the_runtime() {
        let (answer, answered) = mpsc::channel();
        let slow = SharedCredentialsProvider::new(Slow(Mutex::new(answered)));
        let shared = SdkConfig::builder().credentials_provider(slow).build();
        let identities =
            Identities::new(&shared, || aws_config::defaults(BehaviorVersion::latest()));
        let asked = tokio::spawn(async move { identities.provide_credentials().await });
        let (tell, told) = mpsc::channel();
        tokio::spawn(async move { tell.send(()) });
        let goes_on = told.recv_timeout(Duration::from_secs(20));
        answer.send(()).unwrap();
        assert_eq!(goes_on, Ok(()));
        assert_eq!(asked.await.unwrap().unwrap().access_key_id(), "key");
    }

    fn denied(code: Option<&str>) -> Error {
        Error::Denied(Report { code: code.map(Into::into), ..Report::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_asked_for_anew_after_a_refusal_but_not_too_often() {
        let identities = Identities::new(&SdkConfig::builder().build(), || {
            aws_config::defaults(BehaviorVersion::latest())
        });
        let is_outdated = |generation, code| identities.is_outdated(generation, &denied(code));
        let revoked = Some("InvalidAccessKeyId");
        assert!(!is_outdated(0, Some("AccessDenied")));
        assert!(!identities.is_outdated(0, &Error::NotFound));
        assert!(is_outdated(0, revoked));
        // The others that were sent with the old ones.
        assert!(is_outdated(0, revoked) && is_outdated(0, None));
        assert_eq!(identities.generation(), 1);
        assert!(!is_outdated(1, revoked) && !is_outdated(1, None), "the new ones, at once");
        tokio::time::advance(PAUSE).await;
        assert!(!is_outdated(1, None));
        assert!(is_outdated(1, revoked));
        tokio::time::advance(PAUSE_OF_DOUBT).await;
        assert!(is_outdated(2, None));
    }
}
