//! `coracle get`.

use super::{
    ScopeArgs,
    print::{self, Output, TableStyle, refusal},
    target::{self, Target},
};
use anyhow::{Result, bail};
use clap::Args;
use coracle_objects::{Kind, table};
use coracle_sdk::{
    Connection,
    connection::{Change, ListOptions},
};
use serde_json::{Value, json};
use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio_stream::StreamExt as _;

/// Print objects.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Get {
    #[command(flatten)]
    scope: ScopeArgs,
    /// KIND, KIND NAME…, KIND/NAME… or KIND,KIND
    #[arg(required = true)]
    targets: Vec<String>,
    /// json, yaml, name, wide or jsonpath=TEMPLATE
    #[arg(short, long)]
    output: Option<Output>,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Label selector
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Field selector
    #[arg(long, default_value = "", hide_default_value = true)]
    field_selector: String,
    /// Go on printing changes
    #[arg(short, long)]
    watch: bool,
    /// No headings
    #[arg(long)]
    no_headers: bool,
    /// A last column with all labels
    #[arg(long)]
    show_labels: bool,
    /// Labels that get columns of their own; several with commas between them, or by naming the option again
    #[arg(short = 'L', long, value_name = "KEY", value_delimiter = ',')]
    label_columns: Vec<String>,
}

impl Get {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let targets = target::parse(&self.targets)?;
        let (connection, namespace) = self.scope.connect()?;
        if self.watch {
            let [target] = targets.as_slice() else { bail!("you may only watch one kind or one object") };
            return self.watch(&connection, &namespace, target).await;
        }
        match self.output.clone().unwrap_or(Output::Table { wide: false }) {
            Output::Table { wide } => self.tables(&connection, &namespace, &targets, wide).await,
            output => self.objects(&connection, &namespace, &targets, &output).await,
        }
    }

    fn options(&self, target: &Target, namespace: &str) -> ListOptions {
        let everywhere = self.all_namespaces || !target.kind.namespaced;
        let mut field_selector = self.field_selector.clone();
        if let Some(name) = &target.name {
            field_selector = format!("metadata.name={name}");
        }
        ListOptions {
            namespace: if everywhere { String::new() } else { namespace.to_owned() },
            label_selector: self.selector.clone(),
            field_selector,
        }
    }

    fn style(&self, kind: &Kind, wide: bool, without_headings: bool) -> TableStyle<'_> {
        TableStyle {
            wide,
            with_namespace: self.all_namespaces && kind.namespaced,
            without_headings,
            label_columns: &self.label_columns,
            all_labels: self.show_labels,
        }
    }

    async fn objects(
        &self,
        connection: &Connection,
        namespace: &str,
        targets: &[Target],
        output: &Output,
    ) -> Result<ExitCode> {
        let (mut kinds, mut items): (Vec<&Kind>, Vec<Value>) = (Vec::new(), Vec::new());
        for target in targets {
            let found = match &target.name {
                Some(name) => vec![connection.get(target.kind, &target.key(name, namespace)).await.map_err(refusal)?],
                None => connection.list(target.kind, &self.options(target, namespace)).await.map_err(refusal)?.0,
            };
            kinds.resize(kinds.len() + found.len(), target.kind);
            items.extend(found);
        }
        let single = targets.len() == 1 && targets[0].name.is_some();
        print::objects(&mut io::stdout().lock(), output, &kinds, items, single)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn tables(
        &self,
        connection: &Connection,
        namespace: &str,
        targets: &[Target],
        wide: bool,
    ) -> Result<ExitCode> {
        let mut out = io::stdout().lock();
        let mut groups: Vec<(&'static Kind, Value)> = Vec::new();
        for target in targets {
            let found = match &target.name {
                // A single get first, so that a missing object is an error and not an empty table.
                Some(name) => {
                    let object = connection.get(target.kind, &target.key(name, namespace)).await.map_err(refusal)?;
                    local_table(target.kind, &[object])
                }
                None => connection.table(target.kind, &self.options(target, namespace)).await.map_err(refusal)?.0,
            };
            match groups.last_mut() {
                Some((kind, table)) if *kind == target.kind => {
                    if let (Some(rows), Some(more)) = (table["rows"].as_array_mut(), found["rows"].as_array()) {
                        rows.extend(more.iter().cloned());
                    }
                }
                _ => groups.push((target.kind, found)),
            }
        }
        let several = groups.len() > 1;
        let mut printed = 0;
        for (kind, table) in groups {
            if table["rows"].as_array().is_none_or(Vec::is_empty) {
                continue;
            }
            if printed > 0 {
                writeln!(out)?;
            }
            let style = self.style(kind, wide, self.no_headers);
            let mut rows = print::table_rows(&table, style);
            if several {
                let name_column = usize::from(style.with_namespace);
                for row in rows.iter_mut().skip(usize::from(!self.no_headers)) {
                    row[name_column] = print::qualified(kind, &row[name_column]);
                }
            }
            print::columns(&mut out, &rows, &mut Vec::new())?;
            printed += 1;
        }
        if printed == 0 {
            let is_in_one = !self.all_namespaces && targets.iter().any(|target| target.kind.namespaced);
            let place = if is_in_one { format!(" in {namespace} namespace.") } else { String::new() };
            writeln!(io::stderr(), "No resources found{place}")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn watch(&self, connection: &Connection, namespace: &str, target: &Target) -> Result<ExitCode> {
        let output = self.output.clone().unwrap_or(Output::Table { wide: false });
        let options = self.options(target, namespace);
        let (items, revision) = connection.list(target.kind, &options).await.map_err(refusal)?;
        let mut widths = Vec::new();
        let mut headings = !self.no_headers;
        for item in items {
            self.watched(&output, target.kind, item, &mut headings, &mut widths)?;
        }
        let mut events = connection.watch(target.kind, &options, &revision).await.map_err(refusal)?;
        while let Some(event) = events.next().await {
            let (change, object) = event.map_err(refusal)?;
            if change != Change::Bookmark {
                self.watched(&output, target.kind, object, &mut headings, &mut widths)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn watched(
        &self,
        output: &Output,
        kind: &'static Kind,
        object: Value,
        headings: &mut bool,
        widths: &mut Vec<usize>,
    ) -> Result<()> {
        let mut out = io::stdout().lock();
        if let Output::Table { wide } = output {
            let style = self.style(kind, *wide, !*headings);
            *headings = false;
            print::columns(&mut out, &print::table_rows(&local_table(kind, &[object]), style), widths)?;
        } else {
            print::objects(&mut out, output, &[kind], vec![object], true)?;
        }
        out.flush()?;
        Ok(())
    }
}

/// The table that the server would print; the rules for it live in the object model.
fn local_table(kind: &Kind, objects: &[Value]) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    table::table(kind, objects, &json!({}), table::IncludeObject::Metadata, now)
}
