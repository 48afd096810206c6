//! Tensors that files are known to carry and that no network here reads: they are told apart from those that nobody
//! knows.

/// Why a tensor of this name is left aside; nothing when it is unknown.
pub(crate) fn reason(name: &str) -> Option<&'static str> {
    const BUFFERS: [&str; 17] = [
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "betas",
        "log_one_minus_alphas_cumprod",
        "logvar",
        "lvlb_weights",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "posterior_variance",
        "scale_factor",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "denoiser.sigmas",
        "denoiser.log_sigmas",
    ];
    let name = name.strip_prefix("low_scale_model.").unwrap_or(name);
    if BUFFERS.contains(&name) {
        Some("a noise schedule's table")
    } else if name.ends_with("position_ids") {
        Some("a table of positions")
    } else if name.starts_with("model_ema.") {
        Some("the running average kept while training")
    } else if name.starts_with("first_stage_model.loss.") || name.starts_with("loss.") {
        Some("the autoencoder's training loss")
    } else if ["v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"]
        .contains(&name)
    {
        Some("a mark of how it was trained")
    } else if name.ends_with("scaled_fp8") || name.ends_with(".comfy_quant") {
        Some("a mark of weights in fp8 with scales")
    } else if name.ends_with(".scale_input") || name.ends_with(".input_scale") {
        Some("a scale of what a layer reads, for arithmetic in fp8")
    } else if name.ends_with("logit_scale") || name.ends_with(".attn_mask") {
        Some("used only to compare texts with pictures")
    } else if name.ends_with("text_projection") || name.ends_with("text_projection.weight") {
        Some("the projection of a pooled output that is not used")
    } else if name.contains(".transformer.resblocks.") && !name.contains(".visual.") {
        Some("a last layer that the family does not use")
    } else {
        None
    }
}
