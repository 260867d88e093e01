//! One broker that is its own controller, with listeners for plain text, TLS, and SCRAM over TLS.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::command::{self, STEP_TIMEOUT, command, output_of};

use super::certificates::{Authority, Subject};
use super::network::MAIN_ADDRESS;
use super::site::{Error, Place, Site};

/// The name of the process.
pub const NAME: &str = "kafka";

/// Plain text, no identity.
pub const PLAINTEXT_PORT: u16 = 19092;
/// TLS; a client certificate is taken as identity when one is shown.
pub const SSL_PORT: u16 = 19093;
/// SCRAM over TLS.
pub const SASL_PORT: u16 = 19094;
const CONTROLLER_PORT: u16 = 19095;
/// Plain text, for clients whose requests pass a proxy of a test: the broker tells them to connect to the proxy, and the
/// proxy connects here.
pub const PROXIED_PORT: u16 = 19096;
/// Where the broker says that this proxy is.
pub const PROXY_ADDRESS: &str = "127.0.0.1";
/// Its port.
pub const PROXY_PORT: u16 = 19097;

/// By which the SCRAM user may log in.
const MECHANISMS: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
/// The SCRAM user.
pub const USERNAME: &str = "weir";
/// Its password; the broker cannot be reached from outside of this machine.
pub const PASSWORD: &str = "weir-e2e-kafka-password";
/// The common name of the certificate that tests come with.
const CLIENT: &str = "weir-client";

/// A directory id and a cluster id are 16 bytes in URL-safe base64. Any will do; a new one each time would let a client
/// notice that it talks to another cluster, which is what a new cluster is.
fn new_cluster_id() -> Result<String, Error> {
    let path = PathBuf::from("/proc/sys/kernel/random/uuid");
    let uuid = std::fs::read_to_string(&path).map_err(|source| Error::Write { path, source })?;
    let bytes = hex::decode(uuid.trim().replace('-', "")).unwrap_or_default();
    Ok(base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes))
}

/// Where the broker's authority lies, for clients.
pub fn authority_file(site: &Site) -> PathBuf {
    site.place.layout.pki().join("kafka-ca.crt")
}

/// The broker lives beside everything else on two cores: the serial collector takes the least.
const BROKER_OPTIONS: [&str; 2] = ["-Xmx512m", "-XX:+UseSerialGC"];

/// A tool lives for a second: the quick compiler starts fastest. Only what goes wrong is worth its log.
pub const TOOL_OPTIONS: [&str; 4] =
    ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"];

fn java<const N: usize>(site: &Site, options: [&str; N], class: &str) -> Vec<String> {
    let class_path = ["-cp", &site.parts.kafka_class_path, class];
    ["java"].into_iter().chain(options).chain(class_path).map(ToOwned::to_owned).collect()
}

/// Formats the broker's storage, starts it, and returns when it answers.
pub async fn start(site: &Site) -> Result<(), Error> {
    create_certificates(site)?;
    let configuration = site.place.layout.state().join("kafka.properties");
    site.place.write(&configuration, &properties(site))?;
    let configuration = configuration.to_string_lossy().into_owned();
    let mut format = java(site, TOOL_OPTIONS, "kafka.tools.StorageTool");
    format.extend(["format", "--cluster-id", &new_cluster_id()?, "--config", &configuration].map(ToOwned::to_owned));
    for mechanism in MECHANISMS {
        format.extend(["--add-scram".to_owned(), format!("{mechanism}=[name={USERNAME},password={PASSWORD}]")]);
    }
    let program = format.remove(0);
    output_of(command(program, format), STEP_TIMEOUT)
        .await
        .map_err(|source: command::Error| Error::Prepare { component: NAME.to_owned(), source })?;
    let mut broker = java(site, BROKER_OPTIONS, "kafka.Kafka");
    broker.push(configuration);
    site.place.start(site.program(NAME, broker))?;
    wait(&site.place).await
}

/// Waits until the broker answers a client on its plain listener.
pub async fn wait(place: &Place) -> Result<(), Error> {
    place
        .ready(NAME, async || {
            super::site::accepts(MAIN_ADDRESS, PLAINTEXT_PORT).await?;
            tokio::task::spawn_blocking(brokers).await.map_err(|error| error.to_string())?
        })
        .await
}

fn brokers() -> Result<(), String> {
    const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
    let consumer = ClientConfig::new()
        .set("bootstrap.servers", format!("{MAIN_ADDRESS}:{PLAINTEXT_PORT}"))
        .create::<BaseConsumer>()
        .map_err(|error| error.to_string())?;
    let metadata = consumer.fetch_metadata(None, METADATA_TIMEOUT).map_err(|error| error.to_string())?;
    if metadata.brokers().is_empty() { Err("no broker has registered".to_owned()) } else { Ok(()) }
}

/// The broker's certificate, as the one file that it wants, and a client's.
fn create_certificates(site: &Site) -> Result<(), Error> {
    let pki = site.place.layout.pki();
    let authority = Authority::create(&pki, "kafka-ca")?;
    let address: IpAddr = MAIN_ADDRESS.parse().expect("the cluster's addresses are well-formed constants");
    let (certificate, key) = authority.issue(&Subject {
        name: "kafka",
        common_name: "kafka",
        dns_names: &["localhost"],
        addresses: &[address],
        ..Subject::default()
    })?;
    site.place.write(&pki.join("kafka.pem"), &format!("{key}{certificate}{}", authority.certificate()))?;
    authority.issue(&Subject { name: "kafka-client", common_name: CLIENT, ..Subject::default() })?;
    Ok(())
}

fn properties(site: &Site) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{CONTROLLER_PORT}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{MAIN_ADDRESS}:{PLAINTEXT_PORT},SSL://{MAIN_ADDRESS}:{SSL_PORT},\
SASL_SSL://{MAIN_ADDRESS}:{SASL_PORT},PROXIED://{MAIN_ADDRESS}:{PROXIED_PORT},CONTROLLER://127.0.0.1:{CONTROLLER_PORT}
advertised.listeners=PLAINTEXT://{MAIN_ADDRESS}:{PLAINTEXT_PORT},SSL://{MAIN_ADDRESS}:{SSL_PORT},\
SASL_SSL://{MAIN_ADDRESS}:{SASL_PORT},PROXIED://{PROXY_ADDRESS}:{PROXY_PORT}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={state}/kafka
ssl.keystore.type=PEM
ssl.keystore.location={pki}/kafka.pem
ssl.truststore.type=PEM
ssl.truststore.location={pki}/kafka-ca.crt
ssl.client.auth=requested
sasl.enabled.mechanisms={mechanisms}
{logins}
# Whoever comes without an identity is trusted, and so are the one SCRAM user and the one certificate; tests make others, who may
# do nothing at first.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{USERNAME};User:CN={CLIENT}
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# What expires is gone within seconds, so that tests can see it.
log.retention.check.interval.ms=5000
log.segment.delete.delay.ms=1000
",
        state = site.place.layout.state().display(),
        pki = site.place.layout.pki().display(),
        mechanisms = MECHANISMS.join(","),
        logins = MECHANISMS.map(login).join("\n"),
    )
}

fn login(mechanism: &str) -> String {
    let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
    format!("listener.name.sasl_ssl.{}.sasl.jaas.config={module} required;", mechanism.to_lowercase())
}
