"use strict";
// The page of film projects: the list, a new one, and one that is open, whose address is #ID or #ID/LANGUAGE.
let project = null, job = null, shown = 0;
const path = (...parts) => ["v1/projects", project.id, ...parts].join("/") + `?language=${project.language}`;
const body = (method, content) => ({method, headers: {"content-type": "application/json"}, body: JSON.stringify(content)});
const clock = seconds => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;

function refresh() {
  const isReady = about && about.ready && !busy;
  for (const id of ["create", "render", "put"]) $(id).disabled = !isReady;
  for (const button of document.querySelectorAll(".redo")) button.disabled = !isReady;
  $("delete").disabled = busy;
  $("progress").hidden = $("cancel").hidden = !job;
}
async function onAbout(isFirst) {
  fillLanguages($("language"), about.languages);
  if (isFirst) await route();
}
async function attempt(work) {  // nothing else begins meanwhile; an error becomes the message
  busy = true; showMessage(""); refresh();
  try { await work(); } catch (error) { showMessage(error.message, true); }
  busy = false; job = null; $("left").textContent = ""; refresh();
}
async function follow(started) {
  job = started; $("progress").removeAttribute("value"); refresh();
  return followed(job, now => {
    if (now.progress > 0) $("progress").value = now.progress;
    $("left").textContent = now.seconds_left > 1 ? `about ${Math.round(now.seconds_left)} s left` : "";
  });
}

// The list, and a new project
async function list(offset) {
  const page = await json(`v1/projects?limit=12&offset=${offset}`);
  if (!offset) $("projects").replaceChildren();
  for (const one of page.projects) {
    const link = Object.assign(document.createElement("a"), {href: `#${one.id}`}), small = document.createElement("small");
    small.textContent = `${one.languages.join(", ")} · used ${new Date(one.used).toLocaleString()}`;
    link.append(one.reference || `Project ${one.id.slice(0, 8)}`, document.createElement("br"), small);
    $("projects").appendChild(document.createElement("li")).append(link);
  }
  shown = page.next_offset;
  $("more").hidden = !shown;
  $("none").hidden = $("projects").childElementCount > 0;
}
$("more").onclick = () => attempt(() => list(shown));
$("script-file").onchange = async () => { $("script").value = await $("script-file").files[0].text(); };
$("new").onsubmit = event => {
  event.preventDefault();
  const who = $("who").value.trim();
  if (!$("agreed").checked || !who) return showMessage("Say who is shown, and tick that they agree to being dubbed.", true);
  attempt(async () => {
    showMessage("The film is uploaded and read.");
    const form = new FormData();
    for (const id of ["reference", "language", "script"]) form.append(id, $(id).value);
    form.append("consent", consentOf(who));
    form.append("label", $("label").checked);
    form.append("video", $("film").files[0]);
    const made = await json("v1/projects", {method: "POST", body: form});
    await follow(await json(made.links.job.slice(1)));
    $("new").reset();
    location.hash = made.id;
  });
};

// One project
async function route() {
  const [id, language] = location.hash.slice(1).split("/");
  $("all").hidden = Boolean(id); $("one").hidden = !id;
  for (const name of ["source", "dub"]) $(name).pause();
  try {
    if (!id) { project = null; return await list(0); }
    const isOther = !project || project.id !== id;
    const found = await json(`v1/projects/${id}?language=${language || ""}`);
    if (found.state !== "ready") {  // it has no film and no segments yet, or never
      project = null; $("one").hidden = true; $("all").hidden = false;
      await list(0);
      return showMessage(found.problem ? found.problem.detail : "The film is being read; open the project again in a moment.", Boolean(found.problem));
    }
    showProject(found);
    if (isOther) openFilm();
    await showLastRender();
  } catch (error) { showMessage(error.message, true); }
}
function showProject(found) {
  project = found;
  $("title").textContent = project.reference || `Project ${project.id.slice(0, 8)}`;
  $("tabs").replaceChildren(...project.languages.map(tag => {
    const button = Object.assign(document.createElement("button"), {type: "button", textContent: tag});
    button.setAttribute("aria-pressed", tag === project.language);
    button.onclick = () => { location.hash = `${project.id}/${tag}`; };
    return button;
  }));
  $("other").replaceChildren();
  if (about) fillLanguages($("other"), about.languages, project.languages);
  $("add").hidden = !$("other").options.length;
  $("segments").replaceChildren(...project.segments.map(row));
  $("render").textContent = project.num_to_dub ? `Render, ${project.num_to_dub} to dub` : "Render";
  showBlocks(); moved(); refresh();
}
function row(segment) {
  const item = document.createElement("li"), time = document.createElement("button");
  Object.assign(time, {type: "button", className: "time", textContent: `${clock(segment.start_seconds)}`});
  time.title = `until ${clock(segment.end_seconds)}`;
  time.onclick = () => seek(segment.start_seconds);
  const input = (name, label) => {
    const field = Object.assign(document.createElement("input"), {type: "text", value: segment[name], className: name === "text" ? "words" : name});
    field.setAttribute("aria-label", `${label} of segment ${segment.id}`);
    field.dataset.segment = segment.id;
    field.onchange = () => attempt(async () => {
      try { await json(path("segments", segment.id), body("PATCH", {[name]: field.value})); } catch (error) { field.value = segment[name]; throw error; }
      showProject(await json(path()));
    });
    field.onkeydown = event => {  // Enter goes on to the next line
      if (event.key === "Enter") { const next = item.nextElementSibling; (next ? next.querySelector(".words") : $("render")).focus(); }
    };
    return field;
  };
  const speaker = input("speaker", "Speaker"), words = input("text", "Words");
  speaker.placeholder = "speaker";
  const chip = Object.assign(document.createElement("span"), {className: `chip ${segment.state}`, textContent: segment.state});
  const redo = Object.assign(document.createElement("button"), {type: "button", className: "redo", textContent: "Redo", title: "dub it with another seed"});
  redo.onclick = () => attempt(async () => {
    await follow(await json(path("segments", segment.id, "redo"), body("POST", {})));
    showProject(await json(path()));
    showMessage(`Segment ${segment.id} was dubbed again; render to hear it in the film.`);
  });
  item.dataset.start = segment.start_seconds; item.dataset.end = segment.end_seconds;
  item.append(time, speaker, words, chip, redo);
  if (segment.note) item.append(Object.assign(document.createElement("div"), {className: "note", textContent: segment.note}));
  return item;
}
async function showLastRender() {
  const mine = `/v1/projects/${project.id}`, {dubs} = await json("v1/dubs?limit=100");
  showDub(dubs.find(one => one.task === "render" && one.state === "done" && one.links.project === mine && one.language === project.language));
}
function showDub(done) {
  $("dub").hidden = $("download").hidden = !done; $("empty").hidden = Boolean(done);
  $("dub-name").textContent = done ? `${done.language}, ${new Date(done.finished).toLocaleTimeString()}` : "";
  if (done) $("dub").src = $("download").href = done.links.result.slice(1);
  else $("dub").removeAttribute("src");
  hear(!done);
  return showFacts(done);
}
$("render").onclick = () => attempt(async () => {
  const done = await follow(await json(path("render"), {method: "POST"}));
  showProject(await json(path()));
  showDub(done);
  showMessage(sentences(done.result.notes));
});
$("cancel").onclick = () => fetch(job.links.self.slice(1), {method: "DELETE"});
$("delete").onclick = () => {
  if (!confirm("Delete the project with its film and dubs?")) return;
  attempt(async () => { await checked(await fetch(`v1/projects/${project.id}`, {method: "DELETE"})); location.hash = ""; });
};
$("add").onsubmit = event => {
  event.preventDefault();
  const file = $("other-file").files[0], tag = $("other").value;
  if (!file) return showMessage("Choose the script in that language.", true);
  attempt(async () => {
    await json(`v1/projects/${project.id}/languages/${tag}`, body("PUT", {script: await file.text()}));
    $("other-file").value = "";
    location.hash = `${project.id}/${tag}`;
  });
};

// The track: one position for both videos
function openFilm() {
  $("source").src = project.links.film.slice(1);
  $("track").setAttribute("aria-valuemax", project.film_seconds.toFixed(1));
  drawWave();
}
function showBlocks() {
  $("blocks").replaceChildren(...project.segments.filter(one => one.text).map(one => {
    const block = Object.assign(document.createElement("div"), {className: `block ${one.state}`, title: one.text});
    block.dataset.start = one.start_seconds; block.dataset.end = one.end_seconds;
    block.style.left = `${100 * one.start_seconds / project.film_seconds}%`;
    block.style.width = `${100 * (one.end_seconds - one.start_seconds) / project.film_seconds}%`;
    return block;
  }));
}
async function drawWave() {  // the browser decodes the sound; a long film would take too much of its memory
  const canvas = $("wave"), id = project.id;
  canvas.width = 1200; canvas.height = 100;
  if (project.film_seconds > 600) return;
  const context = new OfflineAudioContext(1, 1, 8000);
  const sound = await fetch($("source").src).then(answer => answer.arrayBuffer()).then(data => context.decodeAudioData(data)).catch(() => null);
  if (!sound || !project || project.id !== id) return;
  const values = sound.getChannelData(0), step = values.length / canvas.width, pen = canvas.getContext("2d");
  pen.fillStyle = getComputedStyle(document.body).color; pen.globalAlpha = 0.35;
  for (let x = 0; x < canvas.width; x++) {
    let peak = 0;
    for (let at = Math.floor(x * step); at < (x + 1) * step; at++) peak = Math.max(peak, Math.abs(values[at]));
    pen.fillRect(x, 40 - 38 * peak, 1, 76 * peak + 1);
  }
}
function hear(isSource) {
  $("source").muted = !isSource; $("dub").muted = isSource;
  $("hear-source").setAttribute("aria-pressed", isSource);
  $("hear-source").textContent = isSource && !$("dub").hidden ? "Hear the dub" : "Hear it";
}
$("hear-source").onclick = () => hear($("source").muted);
function seek(seconds) {
  for (const id of ["source", "dub"]) $(id).currentTime = Math.max(0, Math.min(seconds, project.film_seconds));
  moved();
}
function moved() {
  const now = $("source").currentTime;
  $("head").style.left = `${100 * now / project.film_seconds}%`;
  $("clock").textContent = `${clock(now)} of ${clock(project.film_seconds)}`;
  $("track").setAttribute("aria-valuenow", now.toFixed(1));
  for (const one of document.querySelectorAll("[data-start]")) one.classList.toggle("now", now >= one.dataset.start && now < one.dataset.end);
}
$("track").onpointerdown = $("track").onpointermove = event => {
  if (event.type === "pointermove" && !event.buttons) return;
  const box = $("track").getBoundingClientRect();
  seek(project.film_seconds * (event.clientX - box.left) / box.width);
};
$("track").onkeydown = event => {
  const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (by) { event.preventDefault(); seek($("source").currentTime + by); }
};
$("play").onclick = () => {
  const isPaused = $("source").paused;
  for (const id of ["source", "dub"]) if ($(id).src) isPaused ? $(id).play().catch(() => {}) : $(id).pause();
};
$("source").onplay = () => { $("play").textContent = "Pause"; $("dub").currentTime = $("source").currentTime; };
$("source").onpause = () => { $("play").textContent = "Play"; };
$("source").onloadedmetadata = $("dub").onloadedmetadata = event => event.target.classList.toggle("tiny", event.target.videoWidth <= 128);
$("source").ontimeupdate = () => {
  if (Math.abs($("dub").currentTime - $("source").currentTime) > 0.2 && $("dub").src) $("dub").currentTime = $("source").currentTime;
  if (project) moved();
};
document.onkeydown = event => {
  if (event.key === " " && project && !event.target.closest("input, textarea, button, select, a")) { event.preventDefault(); $("play").click(); }
};
addEventListener("hashchange", () => { showMessage(""); route(); });
poll();
