//! PostgreSQL, from Debian's package, as the user whom that package makes: it refuses to run as root.

use std::path::PathBuf;

use crate::command::{self, STEP_TIMEOUT, command, output_of};
use crate::layout::Layout;
use crate::supervisor::Program;

use super::network::{MAIN_ADDRESS, inside};
use super::site::{Error, Place, Site};

/// The name of the process.
pub const NAME: &str = "postgres";

/// Where it listens.
pub const PORT: u16 = 15432;

/// The superuser, and the name of the database.
pub const USER: &str = "weir";
/// Its password; the server cannot be reached from outside of this machine.
pub const PASSWORD: &str = "weir-e2e-postgres-password";

/// Debian keeps each major version in a folder of its own.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Where its data lies.
pub fn data(layout: &Layout) -> PathBuf {
    layout.state().join("postgres/data")
}

/// Makes a database cluster, starts the server and makes the database.
pub async fn start(site: &Site) -> Result<(), Error> {
    let folder = site.place.layout.state().join("postgres");
    site.place.folder(&folder)?;
    let password_file = folder.join("password");
    site.place.write(&password_file, PASSWORD)?;
    let owned = ["-R", "postgres:postgres", &folder.to_string_lossy()].map(ToOwned::to_owned);
    prepare(command("chown", owned)).await?;
    let binaries = binaries()?;
    let data = data(&site.place.layout).to_string_lossy().into_owned();
    let initdb = as_postgres([binaries.join("initdb").to_string_lossy().as_ref(), "--pgdata", &data])
        .into_iter()
        .chain(["--username", USER, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"].map(ToOwned::to_owned))
        .chain(["--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile"].map(ToOwned::to_owned))
        .chain([password_file.to_string_lossy().into_owned()])
        .collect::<Vec<_>>();
    prepare(command(&initdb[0], &initdb[1..])).await?;
    let rules = "local all all trust\nhost all all 10.0.0.0/8 scram-sha-256\nhost replication all 10.0.0.0/8 scram-sha-256\n";
    site.place.write(&data_file(site, "pg_hba.conf"), rules)?;
    let server = as_postgres([
        binaries.join("postgres").to_string_lossy().as_ref(),
        "-D",
        &data,
        "-h",
        MAIN_ADDRESS,
        "-p",
        &PORT.to_string(),
        "-k",
        &folder.to_string_lossy(),
        // Nothing here survives a crash of the machine, and must not.
        "-c",
        "fsync=off",
        // Files in the data folder rather than shared memory of the machine, which nobody would remove after a crash.
        "-c",
        "dynamic_shared_memory_type=mmap",
    ]);
    // Outside of its folder, because the state's other folders may be closed to it.
    site.place.start(Program::new(NAME, &folder, inside(server)))?;
    wait(&site.place).await?;
    let socket = folder.to_string_lossy().into_owned();
    let create = ["--host", &socket, "--port", &PORT.to_string(), "--username", USER, "--no-password", USER].map(ToOwned::to_owned);
    prepare(command(binaries.join("createdb"), create)).await
}

/// Waits until the server takes queries.
pub async fn wait(place: &Place) -> Result<(), Error> {
    let ask = binaries()?.join("pg_isready");
    let socket = place.layout.state().join("postgres").to_string_lossy().into_owned();
    place
        .ready(NAME, async || {
            let arguments = ["--quiet", "--host", &socket, "--port", &PORT.to_string()].map(ToOwned::to_owned);
            crate::command::run(&ask, arguments).await.map(drop).map_err(|error| error.to_string())
        })
        .await
}

/// The identifier of the shared memory segment that a killed server leaves behind: in its pid file's seventh line.
pub fn shared_memory(pid_file: &str) -> Option<&str> {
    const SEGMENT_LINE: usize = 6;
    pid_file.lines().nth(SEGMENT_LINE)?.split_ascii_whitespace().nth(1)
}

fn data_file(site: &Site, name: &str) -> PathBuf {
    data(&site.place.layout).join(name)
}

fn as_postgres<const N: usize>(arguments: [&str; N]) -> Vec<String> {
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"].into_iter().chain(arguments).map(ToOwned::to_owned).collect()
}

async fn prepare(step: tokio::process::Command) -> Result<(), Error> {
    output_of(step, STEP_TIMEOUT).await.map(drop).map_err(|source: command::Error| Error::Prepare { component: NAME.to_owned(), source })
}

/// The newest installed version's programs.
fn binaries() -> Result<PathBuf, Error> {
    let read_error = |source| Error::Write { path: PathBuf::from(VERSIONS), source };
    let mut versions = std::fs::read_dir(VERSIONS)
        .map_err(read_error)?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|binaries| binaries.join("initdb").exists())
        .collect::<Vec<_>>();
    versions.sort();
    versions.pop().ok_or_else(|| read_error(std::io::Error::other("no server is installed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_is_in_the_seventh_line() {
        let pid_file = "4242\n/data\n1762682400\n15432\n/sockets\n10.244.0.1\n    589825         3\nready   \n";
        assert_eq!(shared_memory(pid_file), Some("3"));
        assert_eq!(shared_memory("4242\n/data\n"), None);
    }
}
