//! Where pictures go and what is said of them.

/// Where pictures go.
#[derive(clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// File, folder or pattern to write to; `-` is standard output
    #[arg(short, long, value_name = "PATTERN")]
    pub output: Option<String>,
    /// One sheet of all pictures instead of a file for each
    #[arg(long)]
    pub grid: bool,
    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}
