"""`LTX2DubPipeline`: LTX-2 dubbing as a diffusers pipeline; diffusers has none with audio references.

It uses diffusers and the other modules of this package, and knows nothing of artifacts or parameters. All sampling in
dubmill goes through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.ltx2.pipeline_output import LTX2PipelineOutput
from diffusers.utils.doc_utils import replace_example_docstring

from dubmill.model.conditioning import patched_attention, sequence_layout
from dubmill.model.denoising import DenoisingJob, denoising_step
from dubmill.model.diffusion import GuidanceScales, NoiseSchedule, schedule
from dubmill.model.inputs import LTX2DubInputs
from dubmill.model.latents import Latents, decode_pixels, decode_wave, unpack_audio, unpack_video
from dubmill.model.shapes import LatentShape
from dubmill.model.text import TextFeatures

StepCallback = Callable[[Any, int, torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]

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


class LTX2DubPipeline(LTX2DubInputs):
    r"""
    Pipeline for dubbing with LTX-2.X: a clip's video **and audio** latents are clean reference tokens (IC-LoRA), and the
    same person in the same scene is denoised saying what the prompt quotes (JUST-DUB-IT, arXiv 2601.22143; Dub-It).

    Without a reference it is text to audio and video; with `latents` and a conditioning mask it is inpainting.

    Components, text encoding, latent packing and LoRA loading are those of [`LTX2Pipeline`]. Each call works on a copy of
    the scheduler and leaves the pipeline as it was.
    """

    def denoise(
        self,
        job: DenoisingJob,
        state: Latents,
        noise_schedule: NoiseSchedule,
        callback: StepCallback | None,
        callback_tensor_inputs: list[str],
    ) -> Latents:
        """Returns the tokens of `state` denoised through all steps of the schedule, or until `interrupt`."""
        self._num_timesteps = len(noise_schedule.timesteps)
        with self.progress_bar(total=self._num_timesteps) as progress_bar:  # pyright: ignore[reportCallIssue] (untyped)
            for index, timestep in enumerate(noise_schedule.timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                state = denoising_step(self.transformer, job, state, noise_schedule, index)
                if callback is not None:
                    tensors = {"latents": state.video_BSD, "audio_latents": state.audio_BLD}
                    tensors |= callback(self, index, timestep, {name: tensors[name] for name in callback_tensor_inputs})
                    state = Latents(tensors["latents"], tensors["audio_latents"])
                progress_bar.update()
        return state

    def decode(self, tokens: Latents, shape: LatentShape, output_type: str) -> tuple[Any, torch.Tensor]:
        """Returns frames and waveforms, or latents, or the tokens, depending on `output_type`."""
        if output_type == "packed":
            return tokens.video_BSD, tokens.audio_BLD
        video = unpack_video(tokens.video_BSD, (shape.frames, shape.height, shape.width), self.vae)
        audio = unpack_audio(tokens.audio_BLD, self.audio_vae)
        if output_type == "latent":
            return video, audio
        frames = self.video_processor.postprocess_video(decode_pixels(video, self.vae), output_type=output_type)
        return frames, decode_wave(audio, self.audio_vae, self.vocoder)

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
        shift_tokens: int | None = None,
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
        negative_text_features: TextFeatures | None = None,
        empty_text_features: TextFeatures | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 (the idiom of diffusers)
        max_sequence_length: int = 1024,
    ) -> LTX2PipelineOutput | tuple[Any, torch.Tensor]:
        r"""
        Function invoked when calling the pipeline for generation.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                Who speaks which language, and the words in quotes. If not defined, pass `prompt_embeds`.
            negative_prompt (`str` or `list[str]`, *optional*):
                Prompt that classifier-free guidance moves away from; the empty prompt if not defined.
            reference_frames (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`, *optional*):
                Frames of the clip to dub, as `VideoProcessor.preprocess_video` takes them; resized to `height` and
                `width`, cut to `num_frames`.
            reference_audio (`torch.Tensor` of shape `(batch_size, channels, samples)` or `(channels, samples)`, *optional*):
                Audio of the clip to dub, in [-1, 1].
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
                Whether the isolation mask keeps the reference out of the attention between video and audio.
            image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`, *optional*):
                The first frame of the result.
            height, width, num_frames (`int`, *optional*, default to `512`, `768` and `121`):
                Pixels and frames; sides divide by the VAE's spatial ratio, frames are a multiple of its temporal ratio,
                plus one.
            frame_rate (`float`, *optional*, defaults to `25.0`):
                Frames per second.
            num_inference_steps (`int`, *optional*, defaults to 30):
                Denoising steps; ignored if `sigmas` are given.
            shift_tokens (`int`, *optional*):
                Number of video tokens that the scheduler's dynamic shift is computed for. The clip's own if not defined;
                the released recipes of LTX-2 use 4096 for every size.
            sigmas (`list[float]`, *optional*):
                Noise levels, falling, without the final 0. Unlike in other LTX-2 pipelines they are used exactly as given,
                whatever shift the scheduler is configured with; distilled schedules are published without one.
            guidance_scale, audio_guidance_scale (`float`, *optional*, default to 3.0 and that of the video):
                Classifier-free guidance; `1.0` is off.
            stg_scale, audio_stg_scale (`float`, *optional*, default to 0.0 and that of the video):
                Spatio-temporal guidance; `0.0` is off. It works on transformers built without `perturbed_attn` too.
            modality_scale, audio_modality_scale (`float`, *optional*, default to 1.0 and that of the video):
                Guidance away from video and audio predicted without attention to each other; `1.0` is off.
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
                True for a token of `latents` or `audio_latents` that is kept clean; the second stage keeps all of the audio.
            prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask (`torch.Tensor`):
                Pre-generated text features, see [`LTX2Pipeline`].
            text_features, negative_text_features, empty_text_features (`TextFeatures`, *optional*):
                Connector features instead of prompts, a row for each clip. Neither text encoder nor connectors are used
                then. Classifier-free guidance needs `negative_text_features` (one row, or one for each clip), and
                `reference_attention="self"` needs `empty_text_features` (one row: the empty prompt).
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"`, `"latent"`, or `"packed"` for normalised tokens.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`LTX2PipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called at the end of each step with the pipeline, the step's index, its timestep and the tensors named
                below; the tensors that it returns replace them. It may set `pipeline._interrupt`.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*):
                Tensors that the callback gets: `"latents"`, `"audio_latents"`.
            max_sequence_length (`int`, *optional*, defaults to 1024):
                Text tokens.

        Examples:

        Returns:
            [`LTX2PipelineOutput`] or `tuple`:
                Frames and waveforms `(batch_size, channels, samples)` at the vocoder's rate.
        """
        self._interrupt = False
        scales = self._set_guidance(
            GuidanceScales(guidance_scale, stg_scale, modality_scale, guidance_rescale),
            (audio_guidance_scale, audio_stg_scale, audio_modality_scale, audio_guidance_rescale),
        )
        batch_size = self.check_prompt(prompt, prompt_embeds, text_features)
        self.check_inputs(height, width, num_frames, sigmas, spatio_temporal_guidance_blocks)
        self.check_call(batch_size, generator, callback_on_step_end_tensor_inputs)
        has_reference = reference_frames is not None or reference_latents is not None
        has_audio = reference_audio is not None or reference_audio_latents is not None
        self.check_reference(has_reference, has_audio, reference_positions, reference_attention, isolate_reference)
        shape = self.latent_shape(height, width, num_frames, frame_rate)
        layout = sequence_layout(
            shape,
            frame_rate,
            self.transformer,
            reference=reference_positions if has_reference else "none",
            isolate=isolate_reference,
            attention=reference_attention,
        )
        is_guided = self.do_classifier_free_guidance
        if text_features is None:
            embeds = (prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask)
            text = self.encode_text(prompt, negative_prompt, embeds, max_sequence_length, has_negative=is_guided)
        else:
            text = self.stack_features(text_features, negative_text_features, has_negative=is_guided)
        sources = (reference_frames, reference_audio, reference_audio_sampling_rate)
        reference = self.prepare_reference(shape, batch_size, sources, reference_latents, reference_audio_latents)
        clean, keep_video_BS, keep_audio_BL = self.prepare_latents(
            shape, batch_size, image, latents, audio_latents, conditioning_mask, audio_conditioning_mask
        )
        job = DenoisingJob(
            text=text,
            layout=layout,
            reference=reference,
            clean=clean,
            keep_video_BS=keep_video_BS,
            keep_audio_BL=keep_audio_BL,
            video_scales=scales[0],
            audio_scales=scales[1],
            stg_blocks=spatio_temporal_guidance_blocks or (),
            generator=generator,
            num_resamplings=num_resamplings,
        )
        num_tokens = shape.video_tokens if shift_tokens is None else shift_tokens
        levels = schedule(self.scheduler, num_inference_steps, sigmas, num_tokens, self._execution_device)
        state = job.start(levels.sigmas[0] if noise_scale is None else noise_scale)
        with patched_attention(self.transformer, layout):
            self.cache_reference(reference, empty_text_features, layout, max_sequence_length)
            state = self.denoise(job, state, levels, callback_on_step_end, callback_on_step_end_tensor_inputs)
        outputs = self.decode(state, shape, output_type)
        self.maybe_free_model_hooks()
        return LTX2PipelineOutput(frames=outputs[0], audio=outputs[1]) if return_dict else outputs
