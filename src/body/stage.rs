//! The state of a reader's response. One setter changes it and publishes it to the gauges.

use crate::sync::atomic::Ordering;

use super::gauges::{Gauges, State};
use super::{Body, Permit};
use crate::error::Error;
use crate::sync::Arc;

/// The state of a reader's only response.
pub enum Stage {
    /// Not requested yet.
    Unopened,
    Open(Body),
    /// It broke before its end and can be resumed.
    Broken(Broken),
    /// It was closed to free its permit for another handle.
    Parked,
    /// It was read to the end of the requested range, or abandoned, and closed.
    Drained,
}

/// What remains of a broken response: the permit to resume it.
pub struct Broken {
    /// Why it broke.
    pub error: Error,
    permit: Permit,
}

impl Stage {
    fn state(&self) -> State {
        match self {
            Stage::Unopened => State::Unopened,
            Stage::Open(_) | Stage::Broken(_) => State::Idle,
            Stage::Parked => State::Parked,
            Stage::Drained => State::Drained,
        }
    }
}

/// A stage whose state is published to the gauges.
pub struct Response {
    stage: Stage,
    gauges: Arc<Gauges>,
}

impl Response {
    pub fn unopened(gauges: Arc<Gauges>) -> Response {
        Response { stage: Stage::Unopened, gauges }
    }

    /// The only setter of the stage.
    fn set(&mut self, stage: Stage) -> Stage {
        self.gauges.stage.store(stage.state() as u8, Ordering::Relaxed);
        std::mem::replace(&mut self.stage, stage)
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The open body, if there is one.
    pub fn body(&mut self) -> Option<&mut Body> {
        match &mut self.stage {
            Stage::Open(body) => Some(body),
            _ => None,
        }
    }

    /// Whether it holds a permit.
    pub fn holds_permit(&self) -> bool {
        matches!(self.stage, Stage::Open(_) | Stage::Broken(_))
    }

    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Unopened)
    }

    /// Stores a new response. The one before is closed.
    pub fn opened(&mut self, body: Body) {
        self.set(Stage::Open(body));
    }

    /// The open response ended early: closes it and keeps its permit.
    pub fn broke(&mut self, error: Error) {
        if let Stage::Open(body) = self.set(Stage::Drained) {
            self.set(Stage::Broken(Broken { error, permit: body.into_permit() }));
        }
    }

    /// Closes the response and releases its permit.
    pub fn end(&mut self) {
        if self.holds_permit() {
            self.set(Stage::Drained);
        }
    }

    /// The same, to free the permit for another handle.
    pub fn park(&mut self) {
        if self.holds_permit() {
            self.set(Stage::Parked);
        }
    }

    /// Closes the response and keeps its permit for the next one.
    pub async fn close(&mut self) -> Option<Permit> {
        if !self.holds_permit() {
            return None;
        }
        match self.set(Stage::Drained) {
            Stage::Open(body) => Some(body.close().await),
            Stage::Broken(broken) => Some(broken.permit),
            Stage::Unopened | Stage::Parked | Stage::Drained => None,
        }
    }
}
