//! A plan for people: what would be read and written.

use std::fmt::Write as _;

use weir_crds::contract::digest::Sha256Digest;
use weir_crds::contract::plan::Plan;
use weir_crds::contract::units::units;

/// Prints a plan. Of what it says only the forecast depends on the machine and the time; the forecast is a part of the plan that
/// is approved, so the digest depends on them too.
pub fn preview(plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_preview(&mut text, plan);
    text
}

fn write_preview(text: &mut String, plan: &Plan) -> std::fmt::Result {
    writeln!(text, "run {}", plan.run)?;
    writeln!(text, "plan sha256:{}", Sha256Digest::of(&plan.to_bytes()))?;
    let (first, last) = (plan.slices.iter().map(|s| &s.id).min(), plan.slices.iter().map(|s| &s.id).max());
    if let (Some(first), Some(last)) = (first, last) {
        writeln!(text, "slices: {} (from {first} to {last})", plan.slices.len())?;
    }
    writeln!(text, "would read:")?;
    for (index, source) in plan.sources.iter().enumerate() {
        let chunks = plan.chunks.iter().filter(|chunk| usize::from(chunk.source) == index).count();
        writeln!(text, "  source {}: {} objects, {} bytes, in {chunks} chunks", source.name, source.objects, source.bytes)?;
    }
    writeln!(text, "  sampled for the estimate: {} bytes", plan.sampled_bytes)?;
    writeln!(text, "would write:")?;
    writeln!(text, "  {} ({} bytes, {} rows)", plan.objects.key, plan.objects.bytes, plan.objects.rows)?;
    for sink in &plan.sinks {
        writeln!(
            text,
            "  topic {} of cluster {} ({} partitions, id {}): about {} events",
            sink.topic, sink.cluster, sink.partitions, sink.topic_id, plan.estimates.events
        )?;
    }
    let estimates = &plan.estimates;
    if let Some(duration) = estimates.duration {
        writeln!(
            text,
            "  in about {duration}, give or take {} %, with about {} requests to the stores",
            estimates.duration_error_percent, estimates.requests
        )?;
    }
    let columns: Vec<_> = plan.result_columns.iter().map(|column| format!("{} {}", column.name, column.data_type)).collect();
    writeln!(text, "  columns: {}", columns.join(", "))?;
    writeln!(text, "units of work: {}", units(plan).len())
}
