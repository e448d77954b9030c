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
