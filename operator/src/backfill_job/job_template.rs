//! The Kubernetes Job of one attempt at a unit of work. Pure; nothing of a tenant's spec gets into it but names.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
            SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference},
};
use kube::{Resource as _, api::ObjectMeta};
use weir_crds::{
    BackfillJob,
    backfill_class::Workers,
    contract::{
        digest::Sha256Digest,
        manifest::to_bytes,
        names::job_name,
        plan::Plan,
        run::{CONTEXT_ENV, CREDENTIALS_DIR, CREDENTIALS_ENV, MEMORY_BYTES_ENV, SCRATCH_BYTES_ENV, SCRATCH_ENV, WorkerContext},
        units::Verb,
    },
};

use super::{
    authority::Authority,
    observed::{LedgerView, Observed},
    schedule::Order,
};
use crate::quantity;

pub const LABEL_JOB: &str = "weir.dev/job";
pub const LABEL_GENERATION: &str = "weir.dev/generation";
pub const LABEL_UNIT: &str = "weir.dev/unit";
pub const LABEL_VERB: &str = "weir.dev/verb";
pub const LABEL_ATTEMPT: &str = "weir.dev/attempt";
/// Digest of the pod that the Job asks for: one that does not start, and is not what would be asked for now, is replaced.
pub const ANNOTATION_TEMPLATE: &str = "weir.dev/template";
/// The whole name of the BackfillJob, which may be longer than a label's value.
pub const ANNOTATION_JOB: &str = "weir.dev/backfill-job";

pub const CONTAINER: &str = "worker";
const SCRATCH_DIR: &str = "/scratch";
const CREDENTIALS_VOLUME: &str = "credentials";
const SCRATCH_VOLUME: &str = "scratch";
/// The user that weir's images run as.
const USER: i64 = 65532;
/// The operator deletes a Job when its manifests are seen; this is for when there is no operator.
const TTL_AFTER_FINISHED_SECONDS: i32 = 3600;
/// A publisher ends its transaction within 10 s; the rest is for the answer.
const TERMINATION_GRACE_SECONDS: i64 = 30;
const LABEL_LENGTH_MAX: usize = 63;

/// The label by which all of a BackfillJob's workers are found.
pub fn job_label(name: &str) -> String {
    if name.len() <= LABEL_LENGTH_MAX {
        return name.to_owned();
    }
    let hash = Sha256Digest::of(name.as_bytes()).short();
    let head: String = name.chars().take(LABEL_LENGTH_MAX - hash.len() - 1).collect();
    format!("{head}-{hash}")
}

pub fn job(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, plan: Option<&Plan>, order: &Order) -> Job {
    let image = plan.map_or(&seen.worker_image, |p| &p.worker_image);
    let labels: BTreeMap<String, String> = [
        ("app.kubernetes.io/name", "weir-worker".to_owned()),
        ("app.kubernetes.io/managed-by", "weir".to_owned()),
        (LABEL_JOB, job_label(seen.name())),
        (LABEL_GENERATION, view.run_id.generation.to_string()),
        (LABEL_UNIT, order.unit.clone()),
        (LABEL_VERB, order.verb.as_str().to_owned()),
        (LABEL_ATTEMPT, order.attempt.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    let pod = pod(seen, view, authority, image, order);
    let mut annotations = BTreeMap::from([(ANNOTATION_JOB.to_owned(), seen.name().to_owned())]);
    let pod_metadata = ObjectMeta { labels: Some(labels.clone()), annotations: Some(annotations.clone()), ..Default::default() };
    annotations.insert(ANNOTATION_TEMPLATE.to_owned(), Sha256Digest::of(&to_bytes(&pod)).short());
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(&view.run_id, &order.unit, order.attempt)),
            namespace: Some(seen.namespace().to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner(&seen.job)]),
            ..Default::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            pod_replacement_policy: Some("Failed".into()),
            ttl_seconds_after_finished: Some(TTL_AFTER_FINISHED_SECONDS),
            template: PodTemplateSpec { metadata: Some(pod_metadata), spec: Some(pod) },
            ..Default::default()
        }),
        status: None,
    }
}

fn owner(job: &BackfillJob) -> OwnerReference {
    OwnerReference {
        api_version: BackfillJob::api_version(&()).into_owned(),
        kind: BackfillJob::kind(&()).into_owned(),
        name: job.metadata.name.clone().unwrap_or_default(),
        uid: job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        // Nothing waits for the Jobs when a BackfillJob is deleted in the foreground.
        block_owner_deletion: None,
    }
}

fn pod(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, image: &str, order: &Order) -> PodSpec {
    let workers = &authority.class.spec.workers;
    PodSpec {
        restart_policy: Some("Never".into()),
        service_account_name: Some(seen.job.spec.service_account_name.clone()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: Some(workers.node_selector.clone()).filter(|s| !s.is_empty()),
        tolerations: Some(workers.tolerations.clone()).filter(|t| !t.is_empty()),
        priority_class_name: workers.priority_class_name.clone(),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
            ..Default::default()
        }),
        containers: vec![container(seen, view, authority, image, order)],
        volumes: Some(volumes(seen, workers)),
        ..Default::default()
    }
}

fn volumes(seen: &Observed, workers: &Workers) -> Vec<Volume> {
    let scratch = EmptyDirVolumeSource { size_limit: Some(workers.scratch.clone()), ..Default::default() };
    let mut volumes = vec![Volume { name: SCRATCH_VOLUME.into(), empty_dir: Some(scratch), ..Default::default() }];
    if let Some(secret) = &seen.job.spec.credentials_secret_ref {
        // Read by the group only: the pod's fsGroup is the worker's.
        let secret = SecretVolumeSource { secret_name: Some(secret.name.clone()), default_mode: Some(0o440), ..Default::default() };
        volumes.push(Volume { name: CREDENTIALS_VOLUME.into(), secret: Some(secret), ..Default::default() });
    }
    volumes
}

fn container(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, image: &str, order: &Order) -> Container {
    let workers = &authority.class.spec.workers;
    let has_secret = seen.job.spec.credentials_secret_ref.is_some();
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(read_only),
        ..Default::default()
    };
    let mut mounts = vec![mount(SCRATCH_VOLUME, SCRATCH_DIR, false)];
    if has_secret {
        mounts.push(mount(CREDENTIALS_VOLUME, CREDENTIALS_DIR, true));
    }
    let resources: BTreeMap<String, Quantity> =
        [("cpu", &workers.cpu), ("memory", &workers.memory)].map(|(k, v)| (k.to_owned(), v.clone())).into();
    Container {
        name: CONTAINER.into(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(arguments(order)),
        env: Some(environment(seen, view, authority, image, order)),
        resources: Some(ResourceRequirements { requests: Some(resources.clone()), limits: Some(resources), ..Default::default() }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Default::default() }),
            ..Default::default()
        }),
        // Only what the worker writes itself: a tail of its log is not a result.
        termination_message_policy: Some("File".into()),
        volume_mounts: Some(mounts),
        ..Default::default()
    }
}

fn arguments(order: &Order) -> Vec<String> {
    match order.verb {
        // There is one plan.
        Verb::Plan => vec!["plan".into()],
        Verb::Extract | Verb::Assemble | Verb::Publish | Verb::Verify => {
            vec![order.verb.as_str().into(), "--unit".into(), order.unit.clone()]
        }
    }
}

fn environment(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, image: &str, order: &Order) -> Vec<EnvVar> {
    let class = &authority.class.spec;
    // A run goes on at the store that it began with.
    let store = match &view.run {
        Some(run) => run.spec.store.clone(),
        None => crate::stores::location(&class.artifact_store),
    };
    let context = WorkerContext {
        run: view.run_id.clone(),
        store,
        kafka: authority.clusters.iter().map(|(name, cluster)| ((*name).to_owned(), (&cluster.spec).into())).collect(),
        unit: order.unit.clone(),
        attempt: order.attempt,
        parallelism: seen.job.spec.parallelism(class.limits.max_parallelism),
        worker_image: image.to_owned(),
    };
    let context = serde_json::to_string(&context).expect("a context has string keys only");
    // The class's readiness says that both are quantities; a worker that is told 0 refuses to run rather than to guess.
    let bytes = |quantity: &Quantity| quantity::bytes(quantity).unwrap_or(0).to_string();
    let mut environment = vec![
        (CONTEXT_ENV, context),
        (SCRATCH_ENV, SCRATCH_DIR.to_owned()),
        (SCRATCH_BYTES_ENV, bytes(&class.workers.scratch)),
        (MEMORY_BYTES_ENV, bytes(&class.workers.memory)),
    ];
    if seen.job.spec.credentials_secret_ref.is_some() {
        environment.push((CREDENTIALS_ENV, CREDENTIALS_DIR.to_owned()));
    }
    let variable = |(name, value): (&str, String)| EnvVar { name: name.into(), value: Some(value), ..Default::default() };
    environment.into_iter().map(variable).collect()
}
