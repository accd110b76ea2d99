//! What a reader has of a response: one state, which one setter changes and publishes.

use crate::sync::atomic::Ordering;

use super::gauges::{Gauges, State};
use super::{Body, Permit};
use crate::error::Error;
use crate::sync::Arc;

/// A reader's one response, if it has one.
pub enum Stage {
    /// None was asked for yet.
    Unopened,
    Open(Body),
    /// It broke before its end, and waits to be resumed.
    Broken(Broken),
    /// It was closed in favour of another handle.
    Parked,
    /// It came to the end of what was asked for, or was given up, and was closed.
    Drained,
}

/// The right to the response that goes on where one broke.
pub struct Broken {
    /// Why no more came.
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

/// A stage that can be seen from outside.
pub struct Response {
    stage: Stage,
    gauges: Arc<Gauges>,
}

impl Response {
    pub fn unopened(gauges: Arc<Gauges>) -> Response {
        Response { stage: Stage::Unopened, gauges }
    }

    /// The one way from a stage to the next.
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

    /// Whether there is a permit in it.
    pub fn holds_permit(&self) -> bool {
        matches!(self.stage, Stage::Open(_) | Stage::Broken(_))
    }

    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Unopened)
    }

    /// A response has begun. What was open before is closed.
    pub fn opened(&mut self, body: Body) {
        self.set(Stage::Open(body));
    }

    /// The open one ended before its time: it is closed, and its permit kept.
    pub fn broke(&mut self, error: Error) {
        if let Stage::Open(body) = self.set(Stage::Drained) {
            self.set(Stage::Broken(Broken { error, permit: body.into_permit() }));
        }
    }

    /// Closes what is open, and gives its permit back.
    pub fn end(&mut self) {
        if self.holds_permit() {
            self.set(Stage::Drained);
        }
    }

    /// The same in favour of another handle.
    pub fn park(&mut self) {
        if self.holds_permit() {
            self.set(Stage::Parked);
        }
    }

    /// Closes what is open, and keeps its permit for the next response.
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
