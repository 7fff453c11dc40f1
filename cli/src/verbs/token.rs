//! `coracle token`: what lets machines join a cluster as nodes.

use super::{
    ClusterArgs,
    print::{one_line, refusal},
};
use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
use coracle_objects::{bootstrap, catalogue, meta, rules::age};
use coracle_sdk::{Connection, connection::ListOptions};
use rand::{TryRngCore as _, rngs::OsRng};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::pem::parse_x509_pem;

/// What tokens are made of.
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Make, list and delete the tokens with which machines join as nodes.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token and print the line that a machine joins with
    Create(Create),
    /// List the tokens
    List,
    /// Delete tokens: nobody joins with them any more, and who has joined stays
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Create {
    /// How long it lets machines join, e.g. 30m, 24h or 7d; 0: until it is deleted
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = seconds, allow_hyphen_values = true)]
    ttl: u64,
    /// One node joins with it and no other
    #[arg(long)]
    single_use: bool,
    /// Somebody has to approve each node that joins with it: coracle certificate approve
    #[arg(long)]
    manual: bool,
    /// What it is for, for those who list tokens
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Address of the server for the nodes [default: the kubeconfig's]
    #[arg(long, value_name = "https://HOST:PORT")]
    server: Option<String>,
}

#[derive(Debug, Args)]
struct Delete {
    /// Tokens, or their ids (what stands before the dot)
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

impl Token {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, credentials) = self.cluster.connect()?;
        match self.what {
            What::Create(create) => {
                let server = create.server.clone().unwrap_or_else(|| credentials.server.clone());
                // Before there is a token: a line that nobody can join by is worth none.
                coracle_agent::join::check_address(&server)
                    .context("machines cannot join by this address; name another with --server")?;
                let hash = hash_of_ca(&credentials.ca_pem)?;
                let token = create.run(&connection).await?;
                let line = format!(
                    "coracle node join {} --token {token} --ca-cert-hash sha256:{hash} --data-dir ./coracle-node",
                    server.trim_end_matches('/')
                );
                writeln!(io::stdout(), "{line}")?;
            }
            What::List => list(&connection).await?,
            What::Delete(delete) => {
                for token in delete.tokens {
                    let id = token.split('.').next().unwrap_or_default();
                    let key = bootstrap::secret_key(id);
                    connection.delete(catalogue::secrets(), &key, None).await.map_err(refusal)?;
                    writeln!(io::stdout(), "token \"{id}\" deleted")?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Create {
    /// Makes it; answers the token.
    async fn run(&self, connection: &Connection) -> Result<String> {
        let (id, secret) = (random(bootstrap::LENGTHS.0)?, random(bootstrap::LENGTHS.1)?);
        let mut data = json!({
            "token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true",
        });
        if !self.manual {
            data["auth-extra-groups"] = bootstrap::GROUP_APPROVED.into();
        }
        if !self.description.is_empty() {
            data["description"] = self.description.as_str().into();
        }
        if self.ttl > 0 {
            let until = OffsetDateTime::now_utc().replace_nanosecond(0)? + std::time::Duration::from_secs(self.ttl);
            data["expiration"] = until.format(&Rfc3339)?.into();
        }
        let key = bootstrap::secret_key(&id);
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": key.name, "namespace": key.namespace},
            "type": bootstrap::SECRET_TYPE, "stringData": data,
        });
        if self.single_use {
            object["metadata"]["annotations"] = json!({bootstrap::SINGLE_USE_ANNOTATION: "true"});
        }
        connection.create(catalogue::secrets(), &key.namespace, &object).await.map_err(refusal)?;
        Ok(format!("{id}.{secret}"))
    }
}

async fn list(connection: &Connection) -> Result<()> {
    let options = ListOptions {
        namespace: bootstrap::NAMESPACE.to_owned(),
        field_selector: format!("type={}", bootstrap::SECRET_TYPE),
        ..ListOptions::default()
    };
    let (secrets, _) = connection.list(catalogue::secrets(), &options).await.map_err(refusal)?;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let rows: Vec<[String; 4]> = secrets.iter().map(|secret| row(secret, now)).collect();
    let headings = ["TOKEN", "TTL", "APPROVAL", "DESCRIPTION"].map(str::to_owned);
    let mut out = io::stdout().lock();
    for [token, ttl, approval, description] in std::iter::once(&headings).chain(&rows) {
        writeln!(out, "{}", format!("{token:<25} {ttl:<10} {approval:<12} {description}").trim_end())?;
    }
    Ok(())
}

/// The cells of a token.
fn row(secret: &Value, now: i64) -> [String; 4] {
    let field = |name: &str| {
        let bytes = STANDARD.decode(secret["data"][name].as_str().unwrap_or_default()).unwrap_or_default();
        one_line(&String::from_utf8(bytes).unwrap_or_default())
    };
    let ttl = match field("expiration").as_str() {
        "" => "forever".to_owned(),
        until => match age::unix_seconds(until) {
            Some(until) if until > now => age::human_duration(until - now),
            _ => "expired".to_owned(),
        },
    };
    let annotation = |name| meta::annotation(secret, name).unwrap_or_default();
    let is_approved = field("auth-extra-groups").split(',').any(|group| group.trim() == bootstrap::GROUP_APPROVED);
    let mut approval = if is_approved { "automatic" } else { "manual" }.to_owned();
    if annotation(bootstrap::SINGLE_USE_ANNOTATION) == "true" {
        approval = match annotation(bootstrap::USED_BY_ANNOTATION) {
            "" => format!("{approval}, once"),
            node => format!("used by {node}"),
        };
    }
    [format!("{}.{}", field("token-id"), field("token-secret")), ttl, approval, field("description")]
}

/// SHA-256 of the public key of the CA, in hexadecimal digits.
fn hash_of_ca(pem: &str) -> Result<String> {
    let wrong = "the kubeconfig has no CA certificate that nodes could know the cluster by";
    let (_, pem) = parse_x509_pem(pem.as_bytes()).context(wrong)?;
    let certificate = pem.parse_x509().context(wrong)?;
    Ok(hex::encode(Sha256::digest(certificate.public_key().raw)))
}

fn random(length: usize) -> Result<String> {
    let mut text = String::new();
    while text.len() < length {
        let mut byte = [0];
        OsRng.try_fill_bytes(&mut byte).context("the system gives no random bytes")?;
        // What is beyond the last whole round of letters would make the first ones likelier.
        let byte = usize::from(byte[0]);
        if byte < 256 - 256 % LETTERS.len() {
            text.push(char::from(LETTERS[byte % LETTERS.len()]));
        }
    }
    Ok(text)
}

/// Seconds of `90`, `90s`, `30m`, `24h` or `7d`.
fn seconds(text: &str) -> Result<u64> {
    let (number, unit) = match text.find(|character: char| !character.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => bail!("must be a number of s, m, h or d, for example 24h"),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.filter(|seconds| *seconds <= 10 * 365 * 24 * 60 * 60).context("must be a time of at most ten years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [("0", 0), ("90", 90), ("90s", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(seconds(text).unwrap(), expected);
        }
        for bad in ["", "h", "1w", "-1h", "-5m", "-5", "1h30m", "99999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_that_is_none_is_told_in_our_words() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            create: Create,
        }
        let read = |words: &[&str]| <Line as clap::Parser>::try_parse_from([&["x"], words].concat());
        assert_eq!(read(&["--ttl", "5m"]).map(|line| line.create.ttl).ok(), Some(300));
        let error = read(&["--ttl", "-5m"]).map(|line| line.create.ttl).unwrap_err().to_string();
        assert!(error.contains("must be a number of s, m, h or d"), "{error}");
    }

    #[test]
    fn tokens_have_the_shape_that_servers_know() {
        let token = format!("{}.{}", random(6).unwrap(), random(16).unwrap());
        assert!(bootstrap::parts(&token).is_some(), "{token}");
        assert_ne!(random(16).unwrap(), random(16).unwrap());
    }

    #[test]
    fn a_token_is_shown_with_what_it_does() {
        let shown = |data: &[(&str, &str)], annotations: Value| {
            let mut secret = json!({"metadata": {"annotations": annotations}, "data": {}});
            for (name, value) in [("token-id", "a"), ("token-secret", "b")].iter().chain(data) {
                secret["data"][*name] = STANDARD.encode(value).into();
            }
            row(&secret, 1_000).join("|")
        };
        assert_eq!(shown(&[], json!({})), "a.b|forever|manual|");
        let groups = ("auth-extra-groups", bootstrap::GROUP_APPROVED);
        let until = ("expiration", "1970-01-01T00:20:00Z");
        assert_eq!(shown(&[groups, until, ("description", "lab")], json!({})), "a.b|3m20s|automatic|lab");
        assert_eq!(shown(&[("description", "a\n\u{1b}[31mb")], json!({})), "a.b|forever|manual|a  [31mb");
        let mut once = json!({bootstrap::SINGLE_USE_ANNOTATION: "true"});
        assert_eq!(shown(&[groups], once.clone()), "a.b|forever|automatic, once|");
        once[bootstrap::USED_BY_ANNOTATION] = "edge".into();
        assert_eq!(shown(&[("expiration", "1970-01-01T00:10:00Z")], once), "a.b|expired|used by edge|");
    }
}
