//! A container's environment and command line, as Kubernetes computes them. Pure: config maps and secrets are handed
//! in.

use crate::{
    pod::{admission::Offer, spec},
    terminal,
};
use coracle_images::ImageModule;
use coracle_net::names::{CLUSTER_DOMAIN, hostname};
use coracle_objects::{meta, quantity::Quantity};
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr};

/// Most variables of one container, those of services included.
const VARIABLES_MAX: usize = 10_000;
/// Longest value after expansion, and longest argument.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Config maps and secrets that a pod names, already decoded; absent: they do not exist.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub(crate) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// Names of the config maps and secrets that a container's environment needs.
pub(crate) fn needed(container: &Value) -> (Vec<&str>, Vec<&str>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for source in spec::items(container, "envFrom") {
        config_maps.extend(source["configMapRef"]["name"].as_str());
        secrets.extend(source["secretRef"]["name"].as_str());
    }
    for variable in spec::items(container, "env") {
        let from = &variable["valueFrom"];
        config_maps.extend(from["configMapKeyRef"]["name"].as_str());
        secrets.extend(from["secretKeyRef"]["name"].as_str());
    }
    (config_maps, secrets)
}

/// What a pod may ask of its node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeFacts<'a> {
    pub(crate) host_ip: &'a str,
    pub(crate) offer: &'a Offer,
}

/// A container's environment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Variables {
    /// Names and values, in order.
    pub(crate) all: Vec<(String, String)>,
    /// What `envFrom` left out, in kubelet's words for `InvalidEnvironmentVariableNames`.
    pub(crate) skipped: Vec<String>,
}

/// What else the environment depends on.
pub(crate) struct Surroundings<'a> {
    pub(crate) pod: &'a Value,
    pub(crate) node: NodeFacts<'a>,
    pub(crate) sources: &'a Sources,
    /// Variables of the services that the pod sees.
    pub(crate) services: &'a BTreeMap<String, String>,
}

/// The complete environment: `HOSTNAME`, a terminal's `TERM`, `envFrom`, `env`, then the services' variables that nothing else set.
///
/// # Errors
/// kubelet's message for `CreateContainerConfigError`.
pub(crate) fn environment(container: &Value, around: &Surroundings<'_>) -> Result<Variables, String> {
    let mut env = Environment::default();
    env.set("HOSTNAME", full_hostname(around.pod));
    if container["tty"] == true {
        env.set(terminal::KIND.0, terminal::KIND.1.to_owned());
    }
    for source in spec::items(container, "envFrom") {
        env_from(&mut env, source, around)?;
    }
    for variable in spec::items(container, "env") {
        let name = spec::text(variable, "name");
        let value = match variable.get("valueFrom").filter(|from| from.is_object()) {
            Some(from) => value_from(container, from, around)?,
            None => Some(expand(spec::text(variable, "value"), |name| env.get(name).or(around.services.get(name)))),
        };
        if let Some(value) = value {
            env.set(name, value);
        }
    }
    for (name, value) in around.services {
        if env.get(name).is_none() {
            env.set(name, value.clone());
        }
    }
    if env.order.len() > VARIABLES_MAX {
        return Err(format!("the environment has {} variables; at most {VARIABLES_MAX} are taken", env.order.len()));
    }
    let all = env.order.into_iter().filter_map(|name| env.values.remove_entry(&name)).collect();
    Ok(Variables { all, skipped: env.skipped })
}

/// What the pod calls itself: its full name where it says so and has one.
pub(crate) fn full_hostname(pod: &Value) -> String {
    let (name, subdomain) = (hostname(pod), spec::text(&pod["spec"], "subdomain"));
    if pod["spec"]["setHostnameAsFQDN"] == true && !subdomain.is_empty() {
        return format!("{name}.{subdomain}.{}.svc.{CLUSTER_DOMAIN}", meta::namespace(pod));
    }
    name.to_owned()
}

#[derive(Default)]
struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
    skipped: Vec<String>,
}

impl Environment {
    fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }
}

/// Kubernetes' rule: printable ASCII but for `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn env_from(env: &mut Environment, source: &Value, around: &Surroundings<'_>) -> Result<(), String> {
    let prefix = spec::text(source, "prefix");
    let rows = [
        ("configmap", "ConfigMap", &source["configMapRef"], &around.sources.config_maps),
        ("secret", "Secret", &source["secretRef"], &around.sources.secrets),
    ];
    for (what, kind, reference, objects) in rows {
        let Some(name) = reference["name"].as_str() else { continue };
        match objects.get(name) {
            Some(data) => {
                let mut invalid = Vec::new();
                for (key, value) in data {
                    let variable = format!("{prefix}{key}");
                    if is_variable_name(&variable) {
                        env.set(&variable, text_of(value));
                    } else {
                        invalid.push(variable);
                    }
                }
                if !invalid.is_empty() {
                    env.skipped.push(format!(
                        "Keys [{}] from the EnvFrom {kind} {}/{name} were skipped since they are considered invalid \
                         environment variable names.",
                        invalid.join(", "),
                        meta::namespace(around.pod)
                    ));
                }
            }
            None if reference["optional"] == true => {}
            None => return Err(format!("{what} \"{name}\" not found")),
        }
    }
    Ok(())
}

fn value_from(container: &Value, from: &Value, around: &Surroundings<'_>) -> Result<Option<String>, String> {
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return field(around.pod, around.node.host_ip, path).map(Some);
    }
    if from["resourceFieldRef"].is_object() {
        return resource_field(container, &from["resourceFieldRef"], around.node).map(Some);
    }
    let rows = [
        ("configmap", "ConfigMap", &from["configMapKeyRef"], &around.sources.config_maps),
        ("secret", "Secret", &from["secretKeyRef"], &around.sources.secrets),
    ];
    for (what, kind, reference, objects) in rows {
        let Some(name) = reference["name"].as_str() else { continue };
        let key = spec::text(reference, "key");
        let optional = reference["optional"] == true;
        return match objects.get(name).map(|data| data.get(key)) {
            Some(Some(value)) => Ok(Some(text_of(value))),
            _ if optional => Ok(None),
            None => Err(format!("{what} \"{name}\" not found")),
            Some(None) => Err(format!("couldn't find key {key} in {kind} {}/{name}", meta::namespace(around.pod))),
        };
    }
    Ok(None)
}

/// A downward API field as text.
///
/// # Errors
/// When there is no such field.
pub(crate) fn field(pod: &Value, host_ip: &str, path: &str) -> Result<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let map = |field: &str| {
        let entries = pod["metadata"][field].as_object().into_iter().flatten();
        let lines: Vec<String> = entries.map(|(key, value)| format!("{key}={value}")).collect();
        lines.join("\n")
    };
    if let Some((field, key)) = path.strip_prefix("metadata.").and_then(|rest| rest.split_once("['"))
        && let Some(key) = key.strip_suffix("']")
        && matches!(field, "labels" | "annotations")
    {
        return Ok(text(&pod["metadata"][field][key]));
    }
    match path {
        "metadata.name" | "metadata.namespace" | "metadata.uid" => Ok(text(&pod["metadata"][&path[9..]])),
        "metadata.labels" | "metadata.annotations" => Ok(map(&path[9..])),
        "spec.nodeName" | "spec.serviceAccountName" => Ok(text(&pod["spec"][&path[5..]])),
        "status.hostIP" | "status.hostIPs" => Ok(host_ip.to_owned()),
        "status.podIP" => Ok(text(&pod["status"]["podIP"])),
        "status.podIPs" => {
            let all: Vec<&str> =
                spec::items(&pod["status"], "podIPs").iter().map(|one| spec::text(one, "ip")).collect();
            Ok(if all.is_empty() { text(&pod["status"]["podIP"]) } else { all.join(",") })
        }
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// An amount of a container's resources, in units of the divisor. A limit that it does not have is what the node has for
/// pods.
///
/// # Errors
/// When there is no such resource.
pub(crate) fn resource_field(container: &Value, reference: &Value, node: NodeFacts<'_>) -> Result<String, String> {
    let resource = spec::text(reference, "resource");
    let wrong = || format!("unsupported container resource: {resource}");
    let (list, name) = resource.split_once('.').ok_or_else(wrong)?;
    let ("limits" | "requests", "cpu" | "memory" | "ephemeral-storage") = (list, name) else { return Err(wrong()) };
    let parse =
        |value: &Value, default: &str| value.as_str().unwrap_or(default).parse::<Quantity>().map_err(|_| wrong());
    let own = container["resources"][list][name].as_str().map(str::to_owned);
    let amount = own.unwrap_or_else(|| if list == "limits" { all_there_is(name, node.offer) } else { "0".to_owned() });
    let amount = amount.parse::<Quantity>().map_err(|_| wrong())?;
    let divisor = parse(&reference["divisor"], "1")?;
    let (amount, divisor) =
        if name == "cpu" { (amount.milli(), divisor.milli()) } else { (amount.ceil(), divisor.ceil()) };
    // A divisor of "0" means the unit itself.
    let divisor = if divisor > 0 {
        divisor
    } else if name == "cpu" {
        1000
    } else {
        1
    };
    Ok(((amount + divisor - 1) / divisor).to_string())
}

/// What the node has of a resource for all its pods, as a quantity.
fn all_there_is(resource: &str, offer: &Offer) -> String {
    match resource {
        "cpu" => format!("{}m", offer.cpu_milli),
        "memory" => offer.memory_bytes.to_string(),
        _ => offer.storage_bytes.to_string(),
    }
}

/// Replaces `$(NAME)` by what `lookup` knows; `$$` is a `$`; what nobody knows stays.
pub(crate) fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(value),
                None => result.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            result.push('$');
        }
        if result.len() > VALUE_BYTES_MAX {
            break;
        }
    }
    result.push_str(rest);
    result
}

/// Picks the module of an image that a container runs, and its argument vector.
///
/// `argv[0]` is the module's name, then `command[1..]`, then `args`; `command[0]` picks the module in an image that
/// holds several, by its name or its file's, and only replaces `argv[0]` where there is one.
///
/// # Errors
/// A message for `CreateContainerError` when `command[0]` names no module.
pub(crate) fn command_line<'a>(
    container: &Value,
    modules: &'a [ImageModule],
    env: &[(String, String)],
) -> Result<(&'a ImageModule, Vec<String>), String> {
    let known: BTreeMap<&str, &String> = env.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let expanded = |field: &str| -> Vec<String> {
        let texts = spec::items(container, field).iter().filter_map(Value::as_str);
        texts.map(|text| expand(text, |name| known.get(name).copied())).collect()
    };
    let mut command = expanded("command").into_iter();
    let first = command.next();
    let (module, name) = match (modules, first) {
        ([], _) => return Err("the image holds no module".to_owned()),
        ([only], Some(name)) => (only, name),
        ([module, ..], None) => (module, module.name.clone()),
        (several, Some(name)) => {
            let file = name.rsplit('/').next().unwrap_or(&name);
            let wanted = file.strip_suffix(".wasm").unwrap_or(file);
            let found = several.iter().find(|module| module.name == name);
            let Some(module) = found.or_else(|| several.iter().find(|module| module.name == wanted)) else {
                let names: Vec<&str> = several.iter().map(|module| module.name.as_str()).collect();
                return Err(format!("the image has no module \"{name}\"; it holds {}", names.join(", ")));
            };
            (module, name)
        }
    };
    let argv: Vec<String> = std::iter::once(name).chain(command).chain(expanded("args")).collect();
    if argv.iter().chain(env.iter().map(|(_, value)| value)).any(|text| text.contains('\0')) {
        return Err("an argument or a variable holds a NUL character".to_owned());
    }
    Ok((module, argv))
}

/// The variables by which a pod finds services that existed before it: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`,
/// `NAME_SERVICE_PORT_PORTNAME` and the older `NAME_PORT…` ones.
pub(crate) fn service_variables<'a>(
    services: impl IntoIterator<Item = &'a Value>,
    pod: &Value,
) -> BTreeMap<String, String> {
    let links = pod["spec"]["enableServiceLinks"] != false;
    let mut variables = BTreeMap::new();
    for service in services {
        let is_api = meta::namespace(service) == "default" && meta::name(service) == "kubernetes";
        if is_api || links && meta::namespace(service) == meta::namespace(pod) {
            add_service(&mut variables, service);
        }
        if variables.len() > VARIABLES_MAX {
            break;
        }
    }
    variables
}

fn add_service(variables: &mut BTreeMap<String, String>, service: &Value) {
    let Some(address) = service["spec"]["clusterIP"].as_str().filter(|text| text.parse::<IpAddr>().is_ok()) else {
        return;
    };
    let name = meta::name(service).to_ascii_uppercase().replace('-', "_");
    variables.insert(format!("{name}_SERVICE_HOST"), address.to_owned());
    for (index, port) in spec::items(&service["spec"], "ports").iter().enumerate() {
        let Some(number) = port["port"].as_u64() else { continue };
        let number = number.to_string();
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let url = format!("{}://{address}:{number}", protocol.to_ascii_lowercase());
        if index == 0 {
            variables.insert(format!("{name}_SERVICE_PORT"), number.clone());
            variables.insert(format!("{name}_PORT"), url.clone());
        }
        let port_name = spec::text(port, "name").to_ascii_uppercase().replace('-', "_");
        if !port_name.is_empty() {
            variables.insert(format!("{name}_SERVICE_PORT_{port_name}"), number.clone());
        }
        let prefix = format!("{name}_PORT_{number}_{}", protocol.to_ascii_uppercase());
        variables.insert(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase());
        variables.insert(format!("{prefix}_PORT"), number);
        variables.insert(format!("{prefix}_ADDR"), address.to_owned());
        variables.insert(prefix, url);
    }
}

/// `resources.limits.memory` in bytes and `resources.limits.cpu` in thousandths of a core.
pub(crate) fn limits(container: &Value) -> (Option<u64>, Option<u32>) {
    let limits = &container["resources"]["limits"];
    let memory = limits["memory"].as_str().and_then(|text| text.parse::<Quantity>().ok());
    (memory.and_then(|quantity| u64::try_from(quantity.ceil()).ok()), cpu_millis(&limits["cpu"]))
}

/// `resources.requests.cpu` in thousandths of a core; a limit without a request is one too.
pub(crate) fn cpu_request(container: &Value) -> Option<u32> {
    let resources = &container["resources"];
    cpu_millis(&resources["requests"]["cpu"]).or_else(|| cpu_millis(&resources["limits"]["cpu"]))
}

/// An amount of CPU. None at all says nothing, as in Kubernetes.
fn cpu_millis(amount: &Value) -> Option<u32> {
    let quantity = amount.as_str()?.parse::<Quantity>().ok()?;
    u32::try_from(quantity.milli()).ok().filter(|millis| *millis > 0)
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
