//! Alert rules and dashboard by the tool that Prometheus itself has for them. Needs no cluster.

use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use weir_e2e::layout::Layout;

fn config(path: &str) -> PathBuf {
    Layout::from_environment().checkout().join("config").join(path)
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).output().expect("promtool is there: run just install");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
}

#[test]
fn rules_are_what_prometheus_takes_and_do_what_they_say() {
    promtool(&["check", "rules", &config("alerts/rules.yaml").to_string_lossy()]);
    promtool(&["test", "rules", &config("alerts/tests.yaml").to_string_lossy()]);
}

/// What Grafana reads of a dashboard, as far as this one goes: a key that is not here is a mistake, or belongs here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct Dashboard {
    uid: String,
    title: String,
    description: String,
    tags: Vec<String>,
    schema_version: u32,
    version: u32,
    editable: bool,
    refresh: String,
    timezone: String,
    time: Span,
    templating: List<Variable>,
    annotations: List<Value>,
    links: Vec<Value>,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct Span {
    from: String,
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List<T> {
    list: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct Variable {
    name: String,
    r#type: String,
    query: String,
    label: String,
    hide: u32,
    include_all: bool,
    multi: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct Panel {
    id: u32,
    r#type: PanelType,
    title: String,
    #[serde(default)]
    description: String,
    grid_pos: GridPos,
    datasource: Option<Datasource>,
    #[serde(default)]
    targets: Vec<Target>,
    field_config: Option<FieldConfig>,
    options: Option<Value>,
    #[serde(default)]
    transformations: Vec<Value>,
    collapsed: Option<bool>,
    panels: Option<Vec<Value>>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum PanelType {
    Row,
    Stat,
    Table,
    Timeseries,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GridPos {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Datasource {
    r#type: String,
    uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct Target {
    ref_id: String,
    datasource: Datasource,
    expr: String,
    legend_format: String,
    format: Option<String>,
    #[serde(default)]
    instant: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct FieldConfig {
    defaults: Unit,
    overrides: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct Unit {
    unit: String,
}

fn dashboard() -> Dashboard {
    let text = std::fs::read_to_string(config("dashboards/weir.json")).expect("the dashboard is there");
    serde_json::from_str(&text).expect("the dashboard is what Grafana reads")
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let variable = dashboard.templating.list.first().expect("the data source is a variable");
    let uid = format!("${{{}}}", variable.name);
    for (index, panel) in dashboard.panels.iter().enumerate() {
        let title = &panel.title;
        assert!(!title.is_empty() && dashboard.panels.iter().filter(|p| p.id == panel.id).count() == 1, "{title}: its id is another's");
        assert!(panel.grid_pos.w > 0 && panel.grid_pos.x + panel.grid_pos.w <= 24, "{title}: it does not fit");
        for other in &dashboard.panels[..index] {
            let (a, b) = (&panel.grid_pos, &other.grid_pos);
            let apart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
            assert!(apart, "{title} lies over {}", other.title);
        }
        assert_eq!(panel.r#type == PanelType::Row, panel.targets.is_empty(), "{title}");
        for source in panel.datasource.iter().chain(panel.targets.iter().map(|t| &t.datasource)) {
            assert_eq!((source.r#type.as_str(), &source.uid), ("prometheus", &uid), "{title}");
        }
    }
}

#[test]
fn every_expression_of_the_dashboard_is_promql() {
    let exprs: Vec<String> = dashboard().panels.into_iter().flat_map(|p| p.targets).map(|t| t.expr).collect();
    assert!(exprs.len() > 10);
    let rule = |(index, expr): (usize, &String)| {
        let expr = expr.replace("$__rate_interval", "5m").replace("$__range", "6h");
        serde_json::json!({"record": format!("dashboard:{index}"), "expr": expr})
    };
    let rules: Vec<Value> = exprs.iter().enumerate().map(rule).collect();
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a temporary file");
    // JSON is YAML.
    let text = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    std::fs::write(file.path(), text).expect("the rules are written");
    promtool(&["check", "rules", &file.path().to_string_lossy()]);
}
