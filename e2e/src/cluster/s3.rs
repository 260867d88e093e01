//! The S3 server, with versions and object lock.

use super::network::MAIN_ADDRESS;
use super::site::{Error, Place, Site, accepts};

/// The name of the process.
pub const NAME: &str = "s3";

/// Where it listens.
pub const PORT: u16 = 19000;

/// The only user.
pub const ACCESS_KEY: &str = "weir";
/// Its secret; the server cannot be reached from outside of this machine.
pub const SECRET_KEY: &str = "weir-e2e-s3-secret";
/// What the server takes itself to be.
pub const REGION: &str = "us-east-1";

/// Starts the server and returns when it takes connections.
pub async fn start(site: &Site) -> Result<(), Error> {
    let objects = site.place.layout.state().join("s3/objects");
    // Its name must not begin with that of the folder of objects: the server would take it for a part of that.
    let versions = site.place.layout.state().join("s3/versions");
    site.place.folder(&objects)?;
    site.place.folder(&versions)?;
    let port = format!("{MAIN_ADDRESS}:{PORT}");
    let (server, objects, versions) = (
        site.parts.s3_server.to_string_lossy().into_owned(),
        objects.to_string_lossy().into_owned(),
        versions.to_string_lossy().into_owned(),
    );
    let command = [&server, "--port", &port, "--region", REGION, "--quiet", "posix", "--versioning-dir", &versions, &objects];
    let program = site.program(NAME, command).variable("ROOT_ACCESS_KEY", ACCESS_KEY).variable("ROOT_SECRET_KEY", SECRET_KEY);
    site.place.start(program)?;
    wait(&site.place).await
}

/// Waits until the server takes connections; it does so only when it can serve them.
pub async fn wait(place: &Place) -> Result<(), Error> {
    place.ready(NAME, async || accepts(MAIN_ADDRESS, PORT).await).await
}
