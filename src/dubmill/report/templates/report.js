for (const video of document.querySelectorAll("video")) {
  // Controls would cover the mouth: they come with the pointer or the keyboard, and a tap plays.
  const show = (yes) => () => { video.controls = yes; };
  video.controls = false;
  video.tabIndex = 0;
  video.addEventListener("mouseenter", show(true));
  video.addEventListener("focus", show(true));
  video.addEventListener("mouseleave", show(false));
  video.addEventListener("blur", show(false));
  video.addEventListener("touchend", () => { if (!video.controls) video.paused ? video.play() : video.pause(); });
}
for (const button of document.querySelectorAll("[data-play]")) {
  button.addEventListener("click", async () => {
    const videos = [...button.closest(".show").querySelectorAll("video")];
    for (const video of videos) { video.pause(); video.currentTime = 0; }
    const together = button.dataset.play === "together";
    for (const video of videos) video.muted = together;
    if (together) { await Promise.all(videos.map((video) => video.play())); return; }
    for (const video of videos) {
      await video.play();
      await new Promise((done) => { video.onended = done; });
    }
  });
}
