//! The chunk before, as `infer` takes it: how its points count, by options or by the checkpoint.

use anyhow::bail;
use safetensors::{Dtype, SafeTensors};

use crate::graph::HostTensor;
use crate::policy::{Continuation, PREVIOUS_CHUNK, PolicyConfig, Schedule};

/// How the chunk that comes out continues `previous_chunk` (real-time chunking).
#[derive(clap::Args)]
pub struct RtcOptions {
    /// How many points of previous_chunk the robot has come to when the new chunk leaves: they count in full. For a checkpoint that
    /// was trained for it, these points are given [default: 0].
    #[arg(long, value_name = "N")]
    rtc_delay: Option<usize>,
    /// From this point on, previous_chunk counts no more [default: 10].
    #[arg(long, value_name = "N")]
    rtc_horizon: Option<usize>,
    /// How the weights fall between the two: linear, exp, ones or zeros [default: linear].
    #[arg(long, value_name = "NAME", value_parser = schedule)]
    rtc_schedule: Option<Schedule>,
    /// The guidance is never stronger [default: 10].
    #[arg(long, value_name = "W")]
    rtc_max_guidance: Option<f64>,
}

fn schedule(text: &str) -> Result<Schedule, String> {
    Schedule::named(text).ok_or_else(|| format!("there are {}", Schedule::ALL.map(Schedule::name).join(", ")))
}

/// The chunk before and how its points count, as the model takes them: `[horizon, action_dim]` and `[horizon, 1]`.
pub struct Before {
    pub continuation: Continuation,
    pub chunk: HostTensor,
    pub weights: HostTensor,
}

impl RtcOptions {
    /// What the file of inputs has of the chunk before; none if it has none.
    pub fn read(&self, file: &SafeTensors, config: &PolicyConfig) -> anyhow::Result<Option<Before>> {
        let Self { rtc_delay, rtc_horizon, rtc_schedule, rtc_max_guidance } = *self;
        let Ok(view) = file.tensor(PREVIOUS_CHUNK) else {
            if rtc_delay.is_some()
                || rtc_horizon.is_some()
                || rtc_schedule.is_some()
                || rtc_max_guidance.is_some()
            {
                bail!(
                    "--rtc-.. say how '{PREVIOUS_CHUNK}' counts, and there is none: f32 [points, dimensions], normalised, \
                     its first point that of the new chunk"
                );
            }
            return Ok(None);
        };
        let (horizon, width) = (config.action_horizon, config.action_dim);
        let &([points, columns] | [1, points, columns]) = view.shape() else {
            bail!("'{PREVIOUS_CHUNK}' is {:?}, but must be [points, dimensions]", view.shape());
        };
        if view.dtype() != Dtype::F32 || points == 0 || points > horizon || columns == 0 || columns > width {
            bail!(
                "'{PREVIOUS_CHUNK}' is {} [{points}, {columns}], but the model takes f32 of at most [{horizon}, {width}]",
                view.dtype()
            );
        }
        // What it has less than a chunk is 0; points without weight count as nothing.
        let mut chunk = vec![0.0; horizon * width];
        let given = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        for (index, value) in given.enumerate() {
            if !value.is_finite() {
                bail!("'{PREVIOUS_CHUNK}' element {index} is {value}, not a finite number");
            }
            chunk[index / columns * width + index % columns] = value;
        }
        let delay = rtc_delay.unwrap_or(0);
        let mut weights = vec![0.0; horizon];
        let continuation = match config.continuation {
            Continuation::Given { most } => {
                if rtc_delay.is_none() {
                    bail!(
                        "this checkpoint was trained with given points: say with --rtc-delay how many of '{PREVIOUS_CHUNK}' are given, \
                         0 to {}",
                        most.min(points)
                    );
                }
                if delay > most.min(points) {
                    bail!(
                        "--rtc-delay is {delay}, but {} points can be given, by the checkpoint and the file",
                        most.min(points)
                    );
                }
                if rtc_horizon.is_some() || rtc_schedule.is_some() || rtc_max_guidance.is_some() {
                    bail!(
                        "this checkpoint was trained with given points: --rtc-delay alone says how many are"
                    );
                }
                Schedule::Zeros.write(delay, delay, &mut weights);
                Continuation::Given { most }
            }
            Continuation::Free | Continuation::Guided { .. } => {
                let most = rtc_max_guidance.unwrap_or(Continuation::MOST_GUIDANCE);
                if !(most.is_finite() && most >= 0.0) {
                    bail!("--rtc-max-guidance is {most}; it must be a number from 0 on");
                }
                if rtc_horizon == Some(0) {
                    bail!(
                        "--rtc-horizon is 0: then nothing of '{PREVIOUS_CHUNK}' counts; take it out of the file, or give a point from 1 on"
                    );
                }
                let until = rtc_horizon.unwrap_or(10).min(points);
                rtc_schedule.unwrap_or_default().write(delay, until, &mut weights);
                Continuation::Guided { most }
            }
        };
        let (chunk, weights) = (HostTensor::F32(chunk), HostTensor::F32(weights));
        Ok(Some(Before { continuation, chunk, weights }))
    }
}
