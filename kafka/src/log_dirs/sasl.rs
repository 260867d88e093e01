//! Logging in by SCRAM, over an open connection.

use bytes::Bytes;
use kafka_protocol::{
    messages::{SaslAuthenticateRequest, SaslHandshakeRequest},
    protocol::StrBytes,
};
use rsasl::prelude::{Mechname, MessageSent, SASLClient, SASLConfig, State};

use super::{LogDirsError, wire::Connection};
use crate::config::Login;

/// The version from which on the exchange is made of requests, and not of bytes between them.
const HANDSHAKE_VERSION: i16 = 1;
const AUTHENTICATE_VERSION: i16 = 1;

fn failed(error: impl std::fmt::Display) -> LogDirsError {
    LogDirsError::Login(error.to_string())
}

pub fn log_in(connection: &mut Connection, login: &Login) -> Result<(), LogDirsError> {
    let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from(login.mechanism));
    let offered = connection.ask(&handshake, HANDSHAKE_VERSION)?;
    if offered.error_code != 0 {
        return Err(failed(format!("it does not know {}", login.mechanism)));
    }
    let config = SASLConfig::with_credentials(None, login.username.clone(), login.password.clone()).map_err(failed)?;
    let mechanism = Mechname::parse(login.mechanism.as_bytes()).map_err(failed)?;
    let mut session = SASLClient::new(config).start_suggested(&[mechanism]).map_err(failed)?;
    let mut challenge: Option<Bytes> = None;
    loop {
        let mut answer = Vec::new();
        match session.step(challenge.as_deref(), &mut answer).map_err(failed)? {
            State::Finished(MessageSent::No) => return Ok(()),
            state @ (State::Running | State::Finished(MessageSent::Yes)) => {
                challenge = Some(exchange(connection, answer)?);
                if state.is_finished() {
                    return Ok(());
                }
            }
        }
    }
}

fn exchange(connection: &mut Connection, message: Vec<u8>) -> Result<Bytes, LogDirsError> {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into());
    let response = connection.ask(&request, AUTHENTICATE_VERSION)?;
    if response.error_code != 0 {
        let why = response.error_message.map_or_else(String::new, |message| message.to_string());
        return Err(failed(format!("{why} (code {})", response.error_code)));
    }
    Ok(response.auth_bytes)
}
