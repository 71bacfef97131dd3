//! The node's parameters by the one table: what was given at the start and what somebody sets later. What may change while
//! the loop runs takes effect at once; everything else while the node is unconfigured, and is refused otherwise with
//! the reason. Made once, at start; `parameter_services` lets others read and set them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use r2r::ParameterValue;

use crate::control::{PromptInput, Tuner, empty_task};
use crate::observe::TokenizerError;
use crate::settings::{CurrentSettings, PARAMETERS, Parameter, Settings, SettingsError, Value, complete};

/// Belongs to ROS 2; every node has it.
pub const USE_SIM_TIME: &str = "use_sim_time";
const AUTOSTART: &str = "autostart";

/// The parameters of this node, for all threads at its edge.
#[derive(Clone)]
pub struct Parameters(Arc<Mutex<Store>>);

/// The ends of a loop that parameters change.
pub struct Running {
    pub tuner: Tuner,
    pub prompt: PromptInput,
    pub current: CurrentSettings,
}

struct Store {
    /// As somebody gave them; what nobody gave has its default.
    given: BTreeMap<String, Value>,
    use_sim_time: bool,
    stage: Stage,
}

enum Stage {
    Unconfigured,
    Configuring,
    Running(Box<Running>),
}

impl Parameters {
    /// Reads what the command line and parameter files say.
    pub fn new(node: &mut r2r::Node) -> anyhow::Result<Self> {
        let given = given(node)?;
        let use_sim_time = use_sim_time(node)?;
        if use_sim_time {
            node.get_time_source().enable_sim_time(node).context("cannot subscribe to /clock")?;
        }
        Ok(Self::of(given, use_sim_time))
    }

    fn of(given: BTreeMap<String, Value>, use_sim_time: bool) -> Self {
        Self(Arc::new(Mutex::new(Store { given, use_sim_time, stage: Stage::Unconfigured })))
    }

    pub fn use_sim_time(&self) -> bool {
        self.lock().use_sim_time
    }

    /// Whether the node configures and activates itself.
    pub fn autostart(&self) -> bool {
        self.get(AUTOSTART) != Some(Value::Bool(false))
    }

    /// A parameter's value, if there is such a parameter.
    pub fn get(&self, name: &str) -> Option<Value> {
        let store = self.lock();
        match name {
            USE_SIM_TIME => Some(Value::Bool(store.use_sim_time)),
            name => complete(&store.given).0.remove(name),
        }
    }

    /// Whether it cannot be set now.
    pub fn is_read_only(&self, name: &str) -> bool {
        self.lock().refusal(name).is_some()
    }

    /// What was given, by somebody at the start or since then.
    pub fn given(&self) -> BTreeMap<String, Value> {
        self.lock().given.clone()
    }

    /// The settings, or everything that is wrong with them.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        Settings::from_values(&self.lock().given)
    }

    /// As [`Self::settings`], for a loop that is now made of them: nothing changes until [`Self::attach`] or
    /// [`Self::detach`].
    pub fn begin_configuring(&self) -> Result<Settings, SettingsError> {
        let mut store = self.lock();
        let settings = Settings::from_values(&store.given)?;
        store.stage = Stage::Configuring;
        Ok(settings)
    }

    /// From now on changes reach this loop.
    pub fn attach(&self, running: Running) {
        self.lock().stage = Stage::Running(Box::new(running));
    }

    /// There is no loop any more.
    pub fn detach(&self) {
        self.lock().stage = Stage::Unconfigured;
    }

    /// Sets all of these or, when one of them is refused, none. What has changed comes back, with the values before.
    pub fn set(&self, changes: &[(String, Value)]) -> Result<Vec<Changed>, String> {
        self.lock().set(changes)
    }

    /// The task from now on.
    pub fn set_prompt(&self, prompt: &str) -> Result<Vec<Changed>, String> {
        self.set(&[("prompt".to_owned(), Value::Text(prompt.to_owned()))])
    }

    /// A thread that panicked left the store whole: it is changed in one step.
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A parameter that has changed.
#[derive(Clone, Debug)]
pub struct Changed {
    pub parameter: &'static Parameter,
    pub before: Value,
    pub now: Value,
}

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { parameter, before, now } = self;
        write!(f, "{} is now {now}, was {before}", parameter.name)?;
        if parameter.unit.is_empty() { Ok(()) } else { write!(f, " ({})", parameter.unit) }
    }
}

impl Store {
    /// Why a parameter cannot be set now.
    fn refusal(&self, name: &str) -> Option<String> {
        if matches!(name, USE_SIM_TIME | AUTOSTART) {
            return Some("it is read when the process starts; restart it with the new value".to_owned());
        }
        let Some(parameter) = Parameter::find(name) else {
            return Some("there is no such parameter".to_owned());
        };
        match self.stage {
            Stage::Unconfigured => None,
            Stage::Configuring => Some("the node is being configured; set it afterwards".to_owned()),
            Stage::Running(_) if parameter.is_changeable() => None,
            Stage::Running(_) => Some(
                "it is read when the node is configured: restart the node with the new value, or deactivate it and clean \
                 it up first (ros2 lifecycle set)"
                    .to_owned(),
            ),
        }
    }

    fn set(&mut self, changes: &[(String, Value)]) -> Result<Vec<Changed>, String> {
        for (name, _) in changes {
            if let Some(reason) = self.refusal(name) {
                return Err(format!("{name}: {reason}"));
            }
        }
        let mut given = self.given.clone();
        given.extend(changes.iter().cloned());
        let settings = self.check(&given, changes)?;
        let (before, now) = (complete(&self.given).0, complete(&given).0);
        let differs = |parameter: &&Parameter| before[parameter.name] != now[parameter.name];
        let changed: Vec<Changed> = PARAMETERS
            .iter()
            .filter(differs)
            .map(|parameter| Changed {
                parameter,
                before: before[parameter.name].clone(),
                now: now[parameter.name].clone(),
            })
            .collect();
        if let (Stage::Running(running), Some(settings)) = (&mut self.stage, settings)
            && !changed.is_empty()
        {
            running.change(settings, &changed)?;
        }
        self.given = given;
        Ok(changed)
    }

    /// The settings with these changes. While nothing runs, only what is wrong with the changes themselves is refused:
    /// others may follow.
    fn check(
        &self,
        given: &BTreeMap<String, Value>,
        changes: &[(String, Value)],
    ) -> Result<Option<Settings>, String> {
        let problems = match Settings::from_values(given) {
            Ok(settings) => return Ok(Some(settings)),
            Err(error) => error.problems,
        };
        let runs = matches!(self.stage, Stage::Running(_));
        let concerns = |parameter: &str| runs || changes.iter().any(|(name, _)| name == parameter);
        let said: Vec<String> = problems
            .iter()
            .filter(|problem| concerns(&problem.parameter))
            .map(|problem| format!("{}: {}", problem.parameter, problem.message))
            .collect();
        if said.is_empty() { Ok(None) } else { Err(said.join("; ")) }
    }
}

impl Running {
    /// Changes the loop; everything that can fail is done first.
    fn change(&mut self, settings: Settings, changed: &[Changed]) -> Result<(), String> {
        const PROMPT: &str = "prompt";
        let change = self.tuner.prepare(&settings).map_err(|error| error.to_string())?;
        if changed.iter().any(|changed| changed.parameter.name == PROMPT) {
            self.prompt.put(&settings.prompt).map_err(|error: TokenizerError| format!("prompt: {error}"))?;
            empty_task(&settings.prompt).iter().for_each(|said| tracing::warn!("{said}"));
        }
        // The prompt has gone its own way.
        let others = changed.iter().filter(|changed| changed.parameter.name != PROMPT);
        let others: Vec<_> = others.map(|changed| (changed.parameter.name, changed.now.clone())).collect();
        if !others.is_empty() {
            self.tuner.apply(change, &others);
        }
        self.current.set(settings);
        Ok(())
    }
}

/// Parameters from the command line and parameter files, as they stand there.
fn given(node: &r2r::Node) -> anyhow::Result<BTreeMap<String, Value>> {
    let params = node.params.lock().ok().context("the node's parameters cannot be read")?;
    let given = params
        .iter()
        .filter(|(_, parameter)| parameter.value != ParameterValue::NotSet)
        .map(|(name, parameter)| (name.clone(), from_ros(&parameter.value)));
    Ok(given.collect())
}

/// Whether `/clock` is the node's clock.
pub fn use_sim_time(node: &r2r::Node) -> anyhow::Result<bool> {
    let value: Option<bool> =
        node.get_parameter(USE_SIM_TIME).context("use_sim_time must be true or false")?;
    Ok(value.unwrap_or(false))
}

fn from_ros(value: &ParameterValue) -> Value {
    match value {
        ParameterValue::String(text) => Value::Text(text.clone()),
        ParameterValue::Integer(integer) => Value::Integer(*integer),
        ParameterValue::Double(float) => Value::Float(*float),
        ParameterValue::StringArray(texts) => Value::Texts(texts.clone()),
        ParameterValue::IntegerArray(integers) => Value::Integers(integers.clone()),
        ParameterValue::Bool(value) => Value::Bool(*value),
        ParameterValue::BoolArray(_) => Value::Other("a list of true and false"),
        ParameterValue::ByteArray(_) => Value::Other("a list of bytes"),
        ParameterValue::DoubleArray(floats) => Value::Floats(floats.clone()),
        ParameterValue::NotSet => Value::Other("nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(stage: Stage) -> Parameters {
        let given = BTreeMap::from([("seed".to_owned(), Value::Integer(7))]);
        let parameters = Parameters::of(given, false);
        parameters.lock().stage = stage;
        parameters
    }

    fn set(parameters: &Parameters, name: &str, value: Value) -> Result<Vec<Changed>, String> {
        parameters.set(&[(name.to_owned(), value)])
    }

    #[test]
    fn an_unconfigured_node_takes_every_valid_value() {
        let parameters = parameters(Stage::Unconfigured);
        assert_eq!(parameters.get("seed"), Some(Value::Integer(7)));
        assert_eq!(parameters.get("control_hz"), Some(Value::Float(50.0)));
        let changed = set(&parameters, "control_hz", Value::Integer(20)).unwrap();
        assert_eq!(changed[0].to_string(), "control_hz is now 20.0, was 50.0 (Hz)");
        assert_eq!(parameters.get("control_hz"), Some(Value::Float(20.0)));
        let refused = set(&parameters, "control_hz", Value::Float(-1.0)).unwrap_err();
        assert_eq!(refused, "control_hz: must be a number from 0.1 to 1000 (Hz), but is -1.0");
        assert!(set(&parameters, "control_hz", Value::Float(20.0)).unwrap().is_empty());
    }

    #[test]
    fn one_refused_value_refuses_all() {
        let parameters = parameters(Stage::Unconfigured);
        let changes = [("seed", Value::Integer(8)), ("no_such", Value::Integer(8))];
        let changes = changes.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(parameters.set(&changes).unwrap_err(), "no_such: there is no such parameter");
        assert_eq!(parameters.get("seed"), Some(Value::Integer(7)));
    }

    #[test]
    fn what_is_read_at_the_start_is_refused_with_the_reason() {
        let unconfigured = parameters(Stage::Unconfigured);
        for name in [USE_SIM_TIME, AUTOSTART] {
            let refused = set(&unconfigured, name, Value::Bool(false)).unwrap_err();
            assert!(refused.contains("restart it with the new value"), "{refused}");
            assert!(unconfigured.is_read_only(name));
        }
        assert!(unconfigured.autostart() && !unconfigured.use_sim_time());
        let refused = set(&parameters(Stage::Configuring), "seed", Value::Integer(8)).unwrap_err();
        assert!(refused.contains("being configured"), "{refused}");
    }
}
