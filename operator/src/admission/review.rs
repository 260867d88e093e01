//! What the apiserver asks, and what it is answered: `AdmissionReview` of `admission.k8s.io/v1`, as far as it is used.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_floors::judge::Verdict;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The apiserver cuts warnings off from 4,096 characters in all; one has a few hundred.
const WARNINGS_MAX: usize = 8;
/// Refusals that a message holds; whoever mends these is told of the next.
const REFUSALS_MAX: usize = 8;

#[derive(Clone, Debug, Deserialize)]
pub struct Review {
    pub request: Request,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub uid: String,
    pub kind: GroupVersionKind,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
    pub operation: Operation,
    #[serde(default)]
    pub user_info: UserInfo,
    #[serde(default)]
    pub object: Option<Value>,
    #[serde(default)]
    pub old_object: Option<Value>,
}

/// Who asks, as the apiserver has found out.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct UserInfo {
    #[serde(default)]
    pub username: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GroupVersionKind {
    pub group: String,
    pub kind: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What was found of a change: it passes where nothing refuses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    pub refusals: Vec<String>,
    pub warnings: Vec<String>,
}

impl Judged {
    pub fn refuse(message: impl Into<String>) -> Self {
        Self { refusals: vec![message.into()], warnings: Vec::new() }
    }

    pub fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => {}
            Verdict::PassWithWarning { message } => self.warnings.push(message),
            Verdict::Refuse { message } => self.refusals.push(message),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// Its JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
}

#[derive(Clone, Debug, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    pub fn of(uid: String, judged: Judged) -> Self {
        let Judged { mut refusals, mut warnings } = judged;
        warnings.truncate(WARNINGS_MAX);
        let more = refusals.len().saturating_sub(REFUSALS_MAX);
        refusals.truncate(REFUSALS_MAX);
        if more > 0 {
            refusals.push(format!("and {more} more"));
        }
        let allowed = refusals.is_empty();
        let status = (!allowed).then(|| Status { code: 403, reason: "Forbidden", message: refusals.join("; ") });
        Self { api_version: API_VERSION, kind: KIND, response: Response { uid, allowed, status, warnings, ..Response::default() } }
    }

    /// It passes with these changes.
    pub fn changed(uid: String, changes: &[Value]) -> Self {
        let patch = (!changes.is_empty()).then(|| ByteString(Value::from(changes).to_string().into_bytes()));
        let patch_type = patch.as_ref().map(|_| "JSONPatch");
        Self { api_version: API_VERSION, kind: KIND, response: Response { uid, allowed: true, patch_type, patch, ..Response::default() } }
    }
}
