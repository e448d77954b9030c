"""LTX-2 with reference conditioning, on diffusers; imports nothing of dubmill but its errors.

A map for the reader:

- `pipeline` is `LTX2DubPipeline`, a diffusers pipeline: captions, a reference clip and noise in, a dubbed clip out.
  `inputs` checks and prepares its arguments, `denoising` holds one denoising step, `diffusion` the noise schedule, the
  guidance and the training loss.
- `conditioning` is the IC-LoRA part: clean tokens of the source clip stand beside the noisy tokens of the target at the
  same positions (or, the audio, before time zero), and a LoRA is trained to copy from them.
- `attention` changes attention layers for the time of a call: the isolation mask, which keeps the reference out of the
  attention between video and audio, and the reference's KV cache, with which it passes through the transformer once.
- `text` makes text features of captions, `latents` and `mel` turn pixels and waveforms into latent tokens and back,
  `shapes` counts them without torch.
- `load` loads the parts that a step needs, on their devices and in their dtypes; `geometry` reads ratios from configs and
  checks weight files; `quantization` has the int8 weight-only linear layer.
"""
