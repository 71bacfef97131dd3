//! `pi0_node infer`: one shot, files in, files out.

/// Run the model once on normalised values from a safetensors file.
#[derive(clap::Args)]
pub struct Options {}

pub fn run(_: Options) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
