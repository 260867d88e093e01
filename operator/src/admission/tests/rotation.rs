//! Certificates against a scripted API: one Secret, one configuration, one namespace.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::admission::rotation::{CONFIGURATION, ROTATE_ANNOTATION, Rotation, SECRET};

/// What there is, and what was asked: `PATCH validatingwebhookconfigurations/weir-operator`.
#[derive(Clone, Debug, Default)]
struct Api {
    secret: Option<Value>,
    configuration: Option<Value>,
    /// The other one, that changes what passes.
    stamps: Option<Value>,
    writes: Vec<String>,
    /// Writes of this kind fail once.
    fails: Option<&'static str>,
}

type Shared = Arc<Mutex<Api>>;

fn status(code: u16) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "InternalError" };
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": "", "code": code}))
}

fn found(object: &Option<Value>) -> (u16, Value) {
    object.as_ref().map_or_else(|| status(404), |object| (200, object.clone()))
}

fn answer(api: &mut Api, method: &Method, path: &str, body: Value) -> (u16, Value) {
    // The namespace is in the path of its Secrets.
    let kinds = ["secrets", "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "namespaces"];
    let kind = kinds.into_iter().find(|kind| path.contains(&format!("/{kind}"))).unwrap();
    if method != Method::GET {
        api.writes.push(format!("{method} {kind}"));
        if api.fails == Some(kind) {
            api.fails = None;
            return status(500);
        }
    }
    match (method.as_str(), kind) {
        ("GET", "secrets") => found(&api.secret),
        ("GET", "mutatingwebhookconfigurations") => found(&api.stamps),
        ("GET", "validatingwebhookconfigurations") => found(&api.configuration),
        ("GET", _) => (200, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "weir-system", "uid": "namespace-uid"}})),
        ("POST" | "PUT", _) => {
            api.secret = Some(body.clone());
            (200, body)
        }
        ("PATCH", _) => {
            let configuration = if kind.starts_with("mutating") { &mut api.stamps } else { &mut api.configuration };
            let configuration = configuration.as_mut().unwrap();
            configuration["metadata"]["ownerReferences"] = body["metadata"]["ownerReferences"].clone();
            for patch in body["webhooks"].as_array().unwrap() {
                let webhooks = configuration["webhooks"].as_array_mut().unwrap();
                let webhook = webhooks.iter_mut().find(|w| w["name"] == patch["name"]).unwrap();
                webhook["clientConfig"]["caBundle"] = patch["clientConfig"]["caBundle"].clone();
            }
            (200, configuration.clone())
        }
        _ => panic!("{method} {path}"),
    }
}

fn configuration() -> Value {
    let webhook = |name: &str| {
        json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
               "clientConfig": {"service": {"namespace": "weir-system", "name": "weir-operator"}}})
    };
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
           "metadata": {"name": CONFIGURATION, "uid": "configuration-uid"}, "webhooks": [webhook("kinds.weir.dev"), webhook("topics.weir.dev")]})
}

struct World {
    api: Shared,
    rotation: Rotation,
    now: Timestamp,
}

impl World {
    fn new(configuration: Option<Value>) -> Self {
        let api: Shared = Arc::new(Mutex::new(Api { configuration, ..Api::default() }));
        let answering = Arc::clone(&api);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&answering);
            async move {
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let bytes = request.into_body().collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let (code, answer) = answer(&mut api.lock().unwrap(), &method, &path, body);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        let rotation = Rotation::new(Client::new(service, "default"), "weir-system");
        Self { api, rotation, now: "2026-11-03T00:00:00Z".parse().unwrap() }
    }

    /// A turn so many seconds later, and what it wrote.
    async fn turn(&mut self, seconds: i64) -> Vec<String> {
        self.now += SignedDuration::from_secs(seconds);
        _ = self.rotation.turn(self.now).await;
        std::mem::take(&mut self.api.lock().unwrap().writes)
    }

    /// How many authorities each webhook trusts.
    fn trusted(&self) -> Vec<usize> {
        let api = self.api.lock().unwrap();
        let webhooks = api.configuration.as_ref().unwrap()["webhooks"].as_array().unwrap().clone();
        let count = |webhook: &Value| {
            let bundle: k8s_openapi::ByteString = serde_json::from_value(webhook["clientConfig"]["caBundle"].clone()).unwrap_or_default();
            String::from_utf8(bundle.0).unwrap().matches("BEGIN CERTIFICATE").count()
        };
        webhooks.iter().map(count).collect()
    }

    fn wish(&self, wish: &str) {
        self.api.lock().unwrap().secret.as_mut().unwrap()["metadata"]["annotations"] = json!({ ROTATE_ANNOTATION: wish });
    }

    fn secret(&self) -> Value {
        self.api.lock().unwrap().secret.clone().unwrap()
    }
}

const PATCH: &str = "PATCH validatingwebhookconfigurations";
const REPLACE: &str = "PUT secrets";

#[tokio::test]
async fn what_is_served_first_is_trusted_before() {
    let mut world = World::new(Some(configuration()));
    assert_eq!(world.turn(0).await, [PATCH, "POST secrets"]);
    assert_eq!((world.secret()["metadata"]["name"].as_str(), world.trusted()), (Some(SECRET), vec![1, 1]));
    let owners = world.api.lock().unwrap().configuration.as_ref().unwrap()["metadata"]["ownerReferences"].clone();
    assert_eq!((&owners[0]["kind"], &owners[0]["uid"]), (&json!("Namespace"), &json!("namespace-uid")));
    // That it is trusted is noted, and then there is silence.
    assert_eq!(world.turn(5).await, [REPLACE]);
    assert_eq!(world.turn(5).await, Vec::<String>::new());
    // A configuration that was applied anew is told again.
    world.api.lock().unwrap().configuration = Some(configuration());
    assert_eq!((world.turn(5).await, world.trusted()), (vec![PATCH.to_owned()], vec![1, 1]));
}

#[tokio::test]
async fn both_configurations_trust_before_anything_is_served() {
    let mut world = World::new(Some(configuration()));
    world.api.lock().unwrap().stamps = Some(configuration());
    world.api.lock().unwrap().fails = Some("validatingwebhookconfigurations");
    assert_eq!(world.turn(0).await, ["PATCH mutatingwebhookconfigurations", PATCH]);
    assert_eq!(world.turn(5).await, ["PATCH mutatingwebhookconfigurations", PATCH, "POST secrets"]);
    let bundle = |it: &Option<Value>| it.as_ref().unwrap()["webhooks"][0]["clientConfig"]["caBundle"].clone();
    let api = world.api.lock().unwrap().clone();
    assert!(bundle(&api.stamps).is_string() && bundle(&api.stamps) == bundle(&api.configuration));
}

#[tokio::test]
async fn a_leaf_and_an_authority_are_renewed_when_somebody_wishes() {
    let mut world = World::new(Some(configuration()));
    world.turn(0).await;
    world.turn(5).await;
    let before = world.secret();
    world.wish("leaf");
    assert_eq!(world.turn(5).await, [REPLACE]);
    assert_ne!(world.secret()["data"], before["data"]);
    assert!(world.secret()["metadata"]["annotations"].get(ROTATE_ANNOTATION).is_none(), "it is granted once");
    assert_eq!(world.turn(5).await, Vec::<String>::new());
    world.wish("authority");
    assert_eq!((world.turn(5).await, world.trusted()), (vec![REPLACE.to_owned()], vec![1, 1]));
    assert_eq!((world.turn(5).await, world.trusted()), (vec![PATCH.to_owned(), REPLACE.to_owned()], vec![2, 2]));
    assert_eq!(world.turn(55).await, Vec::<String>::new());
    assert_eq!((world.turn(5).await, world.trusted()), (vec![REPLACE.to_owned()], vec![2, 2]), "the new one signs");
    assert_eq!(world.turn(55).await, Vec::<String>::new());
    assert_eq!((world.turn(5).await, world.trusted()), (vec![REPLACE.to_owned()], vec![2, 2]), "the old one goes");
    assert_eq!((world.turn(5).await, world.trusted()), (vec![PATCH.to_owned()], vec![1, 1]));
    assert_eq!(world.turn(5).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_wish_during_a_change_is_granted_after_it() {
    let mut world = World::new(Some(configuration()));
    for _ in 0..2 {
        world.turn(5).await;
    }
    world.wish("authority");
    world.turn(5).await;
    world.wish("authority");
    // Trusted, the new one signs, the old one goes.
    for _ in 0..3 {
        world.turn(60).await;
    }
    assert_eq!(world.secret()["metadata"]["annotations"][ROTATE_ANNOTATION], "authority", "it is not forgotten");
    assert_eq!((world.turn(5).await, world.trusted()), (vec![PATCH.to_owned(), REPLACE.to_owned()], vec![1, 1]));
    assert!(world.secret()["metadata"]["annotations"].get(ROTATE_ANNOTATION).is_none());
    world.turn(5).await;
    assert_eq!(world.trusted(), [2, 2]);
}

#[tokio::test]
async fn a_write_that_fails_is_made_up_for_by_the_next_turn() {
    let mut world = World::new(Some(configuration()));
    world.api.lock().unwrap().fails = Some("secrets");
    assert_eq!(world.turn(0).await, [PATCH, "POST secrets"]);
    assert_eq!(world.turn(5).await, [PATCH, "POST secrets"], "that authority was never kept, and is not served");
    world.turn(5).await;
    world.wish("authority");
    world.turn(5).await;
    world.api.lock().unwrap().fails = Some("validatingwebhookconfigurations");
    assert_eq!(world.turn(5).await, [PATCH]);
    // Nobody trusts the new one, so it does not sign.
    assert_eq!((world.turn(600).await, world.trusted()), (vec![PATCH.to_owned(), REPLACE.to_owned()], vec![2, 2]));
    assert_eq!(world.turn(5).await, Vec::<String>::new());
}

#[tokio::test]
async fn without_a_configuration_nobody_asks_and_nothing_is_made_of_it() {
    let mut world = World::new(None);
    assert_eq!(world.turn(0).await, ["POST secrets"]);
    assert_eq!(world.turn(5).await, Vec::<String>::new());
    // What weir did not write is replaced.
    world.api.lock().unwrap().secret.as_mut().unwrap()["data"] = json!({"certificates.json": "bm90aGluZw=="});
    world.api.lock().unwrap().configuration = Some(configuration());
    assert_eq!((world.turn(5).await, world.trusted()), (vec![PATCH.to_owned(), REPLACE.to_owned()], vec![1, 1]));
}
