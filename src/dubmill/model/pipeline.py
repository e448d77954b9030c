"""`LTX2DubPipeline`: LTX-2 dubbing in the idiom of diffusers, which has no pipeline with audio references.

It stands on diffusers, and on the files `ltx2_inputs`, `denoising`, `conditioning`, `attention`, `diffusion`, `latents`,
`mel` and `shapes` beside it, which know nothing of artifacts and parameters. All sampling of the project goes through it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import LTX2Pipeline
from diffusers.pipelines.ltx2.pipeline_output import LTX2PipelineOutput
from diffusers.utils import replace_example_docstring

from dubmill.model.conditioning import TextFeatures, cache_reference, patched_attention, sequence_layout
from dubmill.model.denoising import DenoisingJob, step
from dubmill.model.diffusion import Scales, schedule
from dubmill.model.inputs import LTX2DubInputs
from dubmill.model.latents import Latents, decode_pixels, decode_wave, unpack_audio, unpack_video
from dubmill.model.shapes import LatentShape

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> pipe = LTX2DubPipeline.from_pretrained("Lightricks/LTX-2", torch_dtype=torch.bfloat16).to("cuda")
        >>> pipe.load_lora_weights("path/to/dub_lora.safetensors")
        >>> frames = load_video("source.mp4")[:121]  # PIL images at 25 frames per second
        >>> sound, rate = soundfile.read("source.wav", dtype="float32", always_2d=True)

        >>> video, audio = pipe(
        ...     prompt='A person is speaking Spanish, saying: "Hola, ¿cómo estás?"',
        ...     reference_frames=frames,
        ...     reference_audio=torch.from_numpy(sound.T),
        ...     reference_audio_sampling_rate=rate,
        ...     height=512,
        ...     width=768,
        ...     num_frames=121,
        ...     generator=[torch.Generator().manual_seed(0)],
        ...     return_dict=False,
        ... )
        ```
        A second stage is a second call: `output_type="latent"` above, the video latents through
        [`LTX2LatentUpsamplePipeline`], then `latents=upsampled, audio_latents=audio, sigmas=[0.909375, 0.725, 0.421875],
        guidance_scale=1.0` and an `audio_conditioning_mask` of ones, with the references at the doubled size.
"""


class LTX2DubPipeline(LTX2DubInputs, LTX2Pipeline):
    r"""
    Pipeline for dubbing with LTX-2.X: a clip's video **and audio** latents are given as clean reference tokens, and the
    same person in the same scene is denoised saying what the prompt quotes (JUST-DUB-IT, arXiv 2601.22143; Dub-It).

    Without a reference it is text to audio and video; with `latents` and a conditioning mask it is inpainting.

    Components, text encoding, latent packing and LoRA loading are those of [`LTX2Pipeline`]. A copy of the scheduler is
    used for each call, so that a call leaves nothing behind.
    """

    _callback_tensor_inputs = ["latents", "audio_latents"]

    def check_size(self, height: int, width: int, num_frames: int) -> None:
        """Raise `ValueError` for a size that the autoencoder cannot hold."""
        spatial, temporal = self.vae_spatial_compression_ratio, self.vae_temporal_compression_ratio
        if height % spatial or width % spatial:
            raise ValueError(f"`height` and `width` have to be divisible by {spatial} but are {height} and {width}.")
        if (num_frames - 1) % temporal:
            raise ValueError(f"`num_frames` has to be {temporal}k + 1 but is {num_frames}.")

    def check_prompt(
        self, prompt: str | list[str] | None, prompt_embeds: torch.Tensor | None, features: TextFeatures | None
    ) -> int:
        """How many clips are asked for; raise `ValueError` unless it is told in exactly one way."""
        if sum(one is not None for one in (prompt, prompt_embeds, features)) != 1:
            raise ValueError("Provide one of `prompt`, `prompt_embeds` and `text_features`, and no other.")
        if prompt is not None:
            return 1 if isinstance(prompt, str) else len(prompt)
        return len(prompt_embeds) if features is None else len(features) - 1

    def check_reference(self, is_seen: bool, is_heard: bool, positions: str, attention: str, isolate: bool) -> None:
        """Raise `ValueError` for half a reference, or one that cannot be read so."""
        if is_seen != is_heard:
            raise ValueError("A reference is a picture and its sound: provide the other one too.")
        if positions not in ("shared", "negative"):
            raise ValueError(f'`reference_positions` has to be "shared" or "negative" but is {positions!r}.')
        if attention not in ("full", "self"):
            raise ValueError(f'`reference_attention` has to be "full" or "self" but is {attention!r}.')
        if attention == "self" and not isolate:
            raise ValueError('`reference_attention="self"` needs `isolate_reference=True`.')

    def check_sampling(
        self, batch_size: int, sigmas: list[float] | None, stg_blocks: list[int] | None, generator: Any
    ) -> None:
        """Raise `ValueError` for noise levels, blocks or generators that do not fit."""
        if sigmas is not None and not all(1 >= a > b for a, b in zip(sigmas, [*sigmas[1:], 0], strict=True)):
            raise ValueError(f"`sigmas` have to fall within (0, 1], without the final 0, but are {sigmas}.")
        if self.do_spatio_temporal_guidance and not stg_blocks:
            raise ValueError("Spatio-temporal guidance needs `spatio_temporal_guidance_blocks`.")
        num_blocks = len(self.transformer.transformer_blocks)
        if not all(0 <= block < num_blocks for block in stg_blocks or ()):
            raise ValueError(f"`spatio_temporal_guidance_blocks` are {stg_blocks}, of blocks 0 to {num_blocks - 1}.")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"There are {len(generator)} generators for {batch_size} clips.")

    def check_callback(self, tensor_inputs: list[str]) -> None:
        """Raise `ValueError` for tensors that a callback cannot have."""
        unknown = set(tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"A callback can have {self._callback_tensor_inputs}, but not {sorted(unknown)}.")

    def _shape(self, height: int, width: int, num_frames: int, frame_rate: float) -> LatentShape:
        spatial, temporal = self.vae_spatial_compression_ratio, self.vae_temporal_compression_ratio
        audio = round(num_frames / frame_rate * self.transformer.audio_rope.audio_latents_per_second)
        return LatentShape((num_frames - 1) // temporal + 1, height // spatial, width // spatial, audio)

    def denoise(
        self, job: DenoisingJob, state: Latents, scheduler: Any, callback: Callable | None, tensor_inputs: list[str]
    ) -> Latents:
        """The tokens of `state` taken down the scheduler's sigmas."""
        schedulers = (scheduler, copy.deepcopy(scheduler))
        self._num_timesteps = len(scheduler.timesteps)
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            for index, timestep in enumerate(scheduler.timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                state = step(self.transformer, job, state, schedulers, index)
                if callback is not None:
                    tensors = {"latents": state.video_BSD, "audio_latents": state.audio_BLD}
                    tensors |= callback(self, index, timestep, {name: tensors[name] for name in tensor_inputs})
                    state = Latents(tensors["latents"], tensors["audio_latents"])
                progress_bar.update()
        return state

    def decode(self, made: Latents, shape: LatentShape, output_type: str) -> tuple[Any, torch.Tensor]:
        """Frames and waveforms, or latents, as `output_type` asks."""
        if output_type == "packed":
            return made.video_BSD, made.audio_BLD
        video = unpack_video(made.video_BSD, (shape.frames, shape.height, shape.width), self.vae)
        audio = unpack_audio(made.audio_BLD, self.audio_vae)
        if output_type == "latent":
            return video, audio
        frames = self.video_processor.postprocess_video(decode_pixels(video, self.vae), output_type=output_type)
        return frames, decode_wave(audio, self.audio_vae, self.vocoder)

    def _set_guidance(self, video: tuple[float, ...], audio: tuple[float | None, ...]) -> tuple[Scales, Scales]:
        """The scales of video and audio, the audio's those of the video where it has none of its own."""
        heard = tuple(own if given is None else given for own, given in zip(video, audio, strict=True))
        self._guidance_scale, self._stg_scale, self._modality_scale, self._guidance_rescale = video
        self._audio_guidance_scale, self._audio_stg_scale, self._audio_modality_scale = heard[:3]
        self._audio_guidance_rescale = heard[3]
        return Scales(*video), Scales(*heard)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether one modality has it; a scale under 1 is guidance too."""
        return (self._guidance_scale, self._audio_guidance_scale) != (1, 1)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        reference_frames: Any = None,
        reference_audio: torch.Tensor | None = None,
        reference_audio_sampling_rate: int | None = None,
        reference_latents: torch.Tensor | None = None,
        reference_audio_latents: torch.Tensor | None = None,
        reference_positions: str = "shared",
        reference_attention: str = "full",
        isolate_reference: bool = True,
        image: Any = None,
        height: int = 512,
        width: int = 768,
        num_frames: int = 121,
        frame_rate: float = 25.0,
        num_inference_steps: int = 30,
        sigmas: list[float] | None = None,
        guidance_scale: float = 3.0,
        stg_scale: float = 0.0,
        modality_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        audio_guidance_scale: float | None = None,
        audio_stg_scale: float | None = None,
        audio_modality_scale: float | None = None,
        audio_guidance_rescale: float | None = None,
        spatio_temporal_guidance_blocks: list[int] | None = None,
        noise_scale: float | None = None,
        num_resamplings: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        audio_latents: torch.Tensor | None = None,
        conditioning_mask: torch.Tensor | None = None,
        audio_conditioning_mask: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        text_features: TextFeatures | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 (the idiom of diffusers)
        max_sequence_length: int = 1024,
    ) -> LTX2PipelineOutput | tuple:
        r"""
        Function invoked when calling the pipeline for generation.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                What is said, in quotes, in which language and by whom. If not defined, pass `prompt_embeds`.
            negative_prompt (`str` or `list[str]`, *optional*):
                What to steer away from. Empty if not defined; ignored without classifier-free guidance.
            reference_frames (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`, *optional*):
                Frames of the clip to dub, as `VideoProcessor.preprocess_video` takes them; resized to `height` and
                `width`, cut to `num_frames`.
            reference_audio (`torch.Tensor` of shape `(batch_size, channels, samples)` or `(channels, samples)`, *optional*):
                Its sound, in [-1, 1].
            reference_audio_sampling_rate (`int`, *optional*):
                Samples per second of `reference_audio`; the audio VAE's own if not defined.
            reference_latents, reference_audio_latents (`torch.Tensor`, *optional*):
                Reference latents instead of frames and audio, in the shapes of `latents` and `audio_latents`.
            reference_positions (`str`, *optional*, defaults to `"shared"`):
                Positions of the reference audio. `"shared"`: those of the target; `"negative"`: before time zero, ending
                one audio latent before it. A LoRA has to be used with the one that it was trained with.
            reference_attention (`str`, *optional*, defaults to `"full"`):
                `"full"`: reference and target tokens attend to each other. `"self"`: reference tokens attend to themselves
                alone, and their keys and values are computed once per call. A LoRA has to be used with the one that it
                was trained with; `"self"` needs `isolate_reference`.
            isolate_reference (`bool`, *optional*, defaults to `True`):
                Whether the reference is kept out of the attention between video and audio.
            image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`, *optional*):
                The first frame, given clean.
            height, width, num_frames (`int`, *optional*, default to `512`, `768` and `121`):
                Pixels and frames; sides divide by the VAE's spatial ratio, frames are a multiple of its temporal ratio,
                plus one.
            frame_rate (`float`, *optional*, defaults to `25.0`):
                Frames per second.
            num_inference_steps (`int`, *optional*, defaults to 30):
                Denoising steps; ignored where `sigmas` are given.
            sigmas (`list[float]`, *optional*):
                Noise levels, falling, without the final 0. Unlike in other LTX-2 pipelines they are used exactly as given,
                whatever shift the scheduler is configured with; distilled schedules are told so.
            guidance_scale, audio_guidance_scale (`float`, *optional*, default to 3.0 and that of the video):
                Classifier-free guidance; `1.0` is off.
            stg_scale, audio_stg_scale (`float`, *optional*, default to 0.0 and that of the video):
                Spatio-temporal guidance; `0.0` is off. It works on transformers made without `perturbed_attn` too.
            modality_scale, audio_modality_scale (`float`, *optional*, default to 1.0 and that of the video):
                Guidance away from video and audio that do not know of each other; `1.0` is off.
            guidance_rescale, audio_guidance_rescale (`float`, *optional*, default to 0.0 and that of the video):
                How far the guided sample is rescaled to the spread of the unguided one.
            spatio_temporal_guidance_blocks (`list[int]`, *optional*):
                Transformer blocks that spatio-temporal guidance perturbs (published: 29 for LTX-2, 28 for LTX-2.3).
            noise_scale (`float`, *optional*):
                Noise level that given `latents` are brought to; the first sigma if not defined.
            num_resamplings (`int`, *optional*, defaults to 1):
                Times that each step is re-noised and repeated, as in RePaint.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                One for the batch, or one for each clip: then a clip comes out the same whatever it is batched with.
            latents (`torch.Tensor`, *optional*):
                Video latents to start from: `(batch_size, channels, frames, height, width)` as `output_type="latent"`
                gives them, or normalised tokens `(batch_size, sequence, channels)` as `output_type="packed"` does.
            audio_latents (`torch.Tensor`, *optional*):
                Audio latents, `(batch_size, channels, length, mel_bins)` or tokens, likewise.
            conditioning_mask, audio_conditioning_mask (`torch.Tensor` of shape `(batch_size, sequence)`, *optional*):
                True where a token of `latents` or `audio_latents` is given clean and kept; the second stage keeps all of
                the audio.
            prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask (`torch.Tensor`):
                Pre-generated text features, see [`LTX2Pipeline`].
            text_features (`TextFeatures`, *optional*):
                Instead of prompts: what the connectors make of them, a row for each clip, and of the empty prompt in one
                row more. Neither text encoder nor connectors are used then.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"`, `"latent"`, or `"packed"` for normalised tokens.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`LTX2PipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called at the end of each step with the pipeline, the step, the timestep and the asked tensors; what it
                returns takes their place. It may set `pipeline._interrupt`.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*):
                Which tensors the callback gets: `"latents"`, `"audio_latents"`.
            max_sequence_length (`int`, *optional*, defaults to 1024):
                Text tokens.

        Examples:

        Returns:
            [`LTX2PipelineOutput`] or `tuple`:
                Frames and waveforms `(batch_size, channels, samples)` at the vocoder's rate.
        """
        self._interrupt = False
        scales = self._set_guidance(
            (guidance_scale, stg_scale, modality_scale, guidance_rescale),
            (audio_guidance_scale, audio_stg_scale, audio_modality_scale, audio_guidance_rescale),
        )
        batch_size = self.check_prompt(prompt, prompt_embeds, text_features)
        seen = reference_frames is not None or reference_latents is not None
        heard = reference_audio is not None or reference_audio_latents is not None
        self.check_size(height, width, num_frames)
        self.check_reference(seen, heard, reference_positions, reference_attention, isolate_reference)
        self.check_sampling(batch_size, sigmas, spatio_temporal_guidance_blocks, generator)
        self.check_callback(callback_on_step_end_tensor_inputs)
        shape, device = self._shape(height, width, num_frames, frame_rate), self._execution_device
        how = {"isolate": isolate_reference, "attention": reference_attention}
        layout = sequence_layout(shape, frame_rate, self, reference=reference_positions if seen else "none", **how)
        said = {"features": text_features, "max_sequence_length": max_sequence_length, "device": device}
        text = self.encode_text(
            prompt,
            negative_prompt=negative_prompt,
            do_classifier_free_guidance=self.do_classifier_free_guidance,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            **said,
        )
        sources = (reference_frames, reference_audio, reference_audio_sampling_rate)
        size = (shape, batch_size, device)
        reference = self.prepare_reference(*size, *sources, reference_latents, reference_audio_latents)
        given, keep_video, keep_audio = self.prepare_given(
            *size, image, latents, audio_latents, conditioning_mask, audio_conditioning_mask
        )
        job = DenoisingJob(
            text=text,
            layout=layout,
            reference=reference,
            given=given,
            keep_video_BS=keep_video,
            keep_audio_BL=keep_audio,
            video_scales=scales[0],
            audio_scales=scales[1],
            stg_blocks=tuple(spatio_temporal_guidance_blocks or ()),
            generator=generator,
            num_resamplings=num_resamplings,
        )
        scheduler = schedule(self.scheduler, num_inference_steps, sigmas, shape.video_tokens, device)
        state = job.start(scheduler.sigmas[0] if noise_scale is None else noise_scale)
        with patched_attention(self.transformer, layout):
            if layout.is_cached:
                cache_reference(self.transformer, reference, self.encode_empty(batch_size, **said), layout)
            made = self.denoise(job, state, scheduler, callback_on_step_end, callback_on_step_end_tensor_inputs)
        outputs = self.decode(made, shape, output_type)
        self.maybe_free_model_hooks()
        return LTX2PipelineOutput(frames=outputs[0], audio=outputs[1]) if return_dict else outputs
