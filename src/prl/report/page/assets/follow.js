// A served page asks its server whether the runs went on, and takes over what is new where it stands; what cannot be
// taken over so, as the first responses, is a page to be loaded anew.
"use strict";
(() => {
  const says = document.getElementById("following");
  const every = Number(document.body.dataset.every) * 1000;

  function say(text) {
    if (says.textContent !== text) says.textContent = text;
  }

  async function ask(path) {
    const answer = await fetch(path, { cache: "no-cache" });
    if (!answer.ok) throw new Error(answer.statusText);
    return answer;
  }

  async function look() {
    try {
      const { version, state } = await (await ask("/version")).json();
      if (version !== document.body.dataset.version) {
        const newer = window.renewPage ? await (await ask("/newer")).json() : {};
        const fresh = new DOMParser().parseFromString(newer.page ?? "", "text/html");
        const is_taken = newer.root ? await window.renewPage(fresh, newer.root, ask) : false;
        if (is_taken === false) {
          location.reload(); // which keeps the address, so the filters
          return;
        }
        if (is_taken) document.body.dataset.version = newer.version;
      }
      say(state);
    } catch (error) {
      say("The server does not answer. The page stays as it was, and goes on asking.");
    }
    setTimeout(look, every);
  }
  look();
})();
