//! Wrong manifests, each beside a twin that differs in the one thing that was wrong. Those that the apiserver can tell are
//! refused by `kubectl apply`; those that only data can tell end in `Failed` or `Stalled`, or are refused by weir's webhook where other
//! objects tell it. All say the field and the remedy.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod manifests {
    pub mod case;
    pub mod data;
}

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use manifests::case::{Case, Names};
use manifests::data;
use weir_e2e::fixture::{self, Fixture};

/// kubectl starts in half a second, most of which is one core's.
const REFUSALS_AT_ONCE: usize = 2;
/// Each has a worker or two on the pool's one node.
const JOBS_AT_ONCE: usize = 3;

#[tokio::test]
async fn the_apiserver_refuses_what_it_can_tell() {
    let cases: Vec<Case> = serde_yaml_ng::from_str(include_str!("manifests/admission.yaml")).unwrap();
    assert!(cases.len() >= 30, "{} cases", cases.len());
    fixture::run("admission", async |fixture| {
        let names = Names::of(fixture)?;
        let judged = cases.iter().map(|case| async {
            let refused = refused(fixture, &names, case).await;
            refused.err().map(|error| format!("{}: {error:#}", case.name))
        });
        none_wrong(cases.len(), futures::stream::iter(judged).buffer_unordered(REFUSALS_AT_ONCE).collect().await)
    })
    .await;
}

#[tokio::test]
async fn what_only_data_can_tell_ends_with_a_reason() {
    let cases: Vec<Case> = serde_yaml_ng::from_str(include_str!("manifests/data.yaml")).unwrap();
    fixture::run("data", async |fixture| {
        let names = Names::of(fixture)?;
        data::prepare(fixture, &names).await?;
        let judged = cases.iter().enumerate().map(|(number, case)| {
            let names = &names;
            async move {
                let judged = data::judge(fixture, names, number, case).await;
                judged.err().map(|error| format!("{}: {error:#}", case.name))
            }
        });
        none_wrong(cases.len(), futures::stream::iter(judged).buffer_unordered(JOBS_AT_ONCE).collect().await)
    })
    .await;
}

fn none_wrong(cases: usize, judged: Vec<Option<String>>) -> anyhow::Result<()> {
    let wrong: Vec<String> = judged.into_iter().flatten().collect();
    ensure!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

async fn refused(fixture: &Fixture, names: &Names, case: &Case) -> anyhow::Result<()> {
    let refusal = match fixture.apply(&case.wrong(names)?.to_string()).await {
        Ok(_) => bail!("it was taken"),
        Err(error) => error.to_string(),
    };
    for words in &case.says {
        let words = names.fill(words);
        ensure!(refusal.contains(&words), "the refusal does not say {words:?}: {refusal}");
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), case.right(names)?.to_string())?;
    let path = file.path().to_string_lossy();
    fixture.kubectl(&["apply", "--dry-run=server", "--filename", &path]).await.context("its twin was refused")?;
    Ok(())
}
