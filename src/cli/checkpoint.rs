//! `pi0_node checkpoint`: look into a checkpoint, or make a random one.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::progress::Bar;
use crate::device::Progress;
use crate::graph::WeightFormat;
use crate::observe;
use crate::policy::checkpoint::init;
use crate::policy::{Checkpoint, PolicyConfig};

/// Look into a checkpoint, or make a random one.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Check a checkpoint folder and print its configuration, its tensors and parameters by component.
    Inspect {
        /// Folder with config.json and safetensors files.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Write a checkpoint with random weights in the layout of a trained one, with a small tokenizer and statistics that
    /// leave values as they are: for trying the node, for tests and benchmarks. A robot driven by it moves at random.
    Init {
        /// Sizes of the model.
        #[arg(long, value_enum)]
        preset: Preset,
        /// The same seed gives the same bytes.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How weights are stored.
        #[arg(long, value_enum, default_value = "bf16")]
        dtype: StoredAs,
        /// Side of the images that the model sees, a multiple of 14 [default: the preset's].
        #[arg(long, value_name = "PIXELS")]
        image_size: Option<usize>,
        /// Folder to make; must not hold a checkpoint yet.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Preset {
    /// For tests: compiles and runs in milliseconds.
    Tiny,
    /// Real time with three cameras of 112 x 112 pixels on two cores with AVX2.
    Small,
    /// Real time with one camera on two cores.
    Mini,
    /// The published size: 3.2 billion parameters, 6.5 GB in bf16.
    Pi0,
    /// `tiny` as pi0.5.
    Pi05Tiny,
    /// `mini` as pi0.5.
    Pi05Mini,
    /// pi0.5, the published size: 3.4 billion parameters, 6.7 GB in bf16.
    Pi05,
}

impl Preset {
    pub fn config(self) -> PolicyConfig {
        match self {
            Preset::Tiny => PolicyConfig::TINY,
            Preset::Small => PolicyConfig::SMALL,
            Preset::Mini => PolicyConfig::MINI,
            Preset::Pi0 => PolicyConfig::PI0,
            Preset::Pi05Tiny => PolicyConfig::PI05_TINY,
            Preset::Pi05Mini => PolicyConfig::PI05_MINI,
            Preset::Pi05 => PolicyConfig::PI05,
        }
    }

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Tiny => "tiny",
            Preset::Small => "small",
            Preset::Mini => "mini",
            Preset::Pi0 => "pi0",
            Preset::Pi05Tiny => "pi05-tiny",
            Preset::Pi05Mini => "pi05-mini",
            Preset::Pi05 => "pi05",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum StoredAs {
    Bf16,
    F16,
    F32,
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Inspect { folder } => {
            print!("{}", Checkpoint::open(&folder)?.summary());
            Ok(())
        }
        Command::Init { preset, seed, dtype, image_size, folder } => {
            let mut config = preset.config();
            if let Some(side) = image_size {
                config = config.with_image(side).map_err(anyhow::Error::msg).context("--image-size")?;
            }
            let format = match dtype {
                StoredAs::Bf16 => WeightFormat::BF16,
                StoredAs::F16 => WeightFormat::F16,
                StoredAs::F32 => WeightFormat::F32,
            };
            init_folder(&folder, &config, seed, format)
        }
    }
}

fn init_folder(folder: &Path, config: &PolicyConfig, seed: u64, format: WeightFormat) -> anyhow::Result<()> {
    if folder.join("config.json").exists() {
        bail!("{} holds a checkpoint already; choose another folder or remove it", folder.display());
    }
    let progress = Bar::default();
    progress.begin("writing weights", init::random_bytes(config, format)?);
    let written = init::write_random(folder, config, seed, format, &|bytes| progress.advance(bytes));
    progress.end();
    written?;
    observe::write_small_tokenizer(&folder.join("tokenizer.json"), config.vocabulary)
        .and_then(|()| observe::write_identity_like_stats(folder, config.state_dim, config.action_dim))
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    println!("random checkpoint written to {}", folder.display());
    Ok(())
}
