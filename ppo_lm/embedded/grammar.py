"""The words of the embedded task: what can happen in a post, and how people phrase it.

Each fact has one canonical form, used in summaries, and several forms used in posts, so that a summary cannot just copy
the post. `{they}`, `{them}`, `{their}` and `{name}` stand for the other person.
"""

NAMES = {
    "M": (
        "Adam Alex Andre Ben Brian Carl Chris Cody Colin Dan David Derek Dylan Eddie Eric Ethan Felix Frank Gary "
        "George Grant Greg Harry Henry Hugo Ian Isaac Ivan Jack Jake James Jason Joel Jonas Josh Kevin Kyle Leo "
        "Liam Logan Lucas Luke Marcus Mark Martin Matt Max Mike Nathan Nick Noah Oliver Oscar Owen Paul Peter "
        "Phil Ray Rob Ryan Sam Scott Sean Seth Simon Steve Theo Tim Toby Tom Trevor Tyler Victor Wade Will Zach"
    ).split(),
    "F": (
        "Abby Alice Amber Amy Anna April Beth Bianca Brooke Carla Carmen Chloe Claire Dana Daisy Diana Ella Ellen "
        "Emily Emma Erin Eva Faith Fiona Gina Grace Hannah Heather Helen Holly Irene Iris Ivy Jane Jenna Jess "
        "Jill Joan Julia Kara Karen Kate Kelly Kim Laura Leah Lena Lily Lisa Lucy Maria Megan Mia Molly Monica "
        "Nadia Nancy Naomi Nina Nora Olivia Paige Pam Rachel Rita Rosa Ruth Sara Sophie Stella Tara Tina Vera "
        "Wendy Zoe"
    ).split(),
}

RELATIONS = {
    "M": [
        "boyfriend",
        "husband",
        "brother",
        "father",
        "uncle",
        "stepfather",
        "roommate",
        "coworker",
        "boss",
        "best friend",
        "neighbor",
        "cousin",
        "landlord",
        "classmate",
    ],
    "F": [
        "girlfriend",
        "wife",
        "sister",
        "mother",
        "aunt",
        "stepmother",
        "roommate",
        "coworker",
        "boss",
        "best friend",
        "neighbor",
        "cousin",
        "landlord",
        "classmate",
    ],
}

TIMES = [
    "yesterday",
    "last night",
    "last week",
    "last month",
    "last summer",
    "last winter",
    "on Friday",
    "on Sunday",
    "two days ago",
    "three weeks ago",
    "four months ago",
    "a year ago",
    "on my birthday",
    "over Christmas",
    "on New Year",
    "at Easter",
    "during the holidays",
    "this morning",
]

EVENTS = {
    "read my messages": [
        "went through my phone and read all of my messages",
        "read my private messages while I was asleep",
    ],
    "lied about money": ["told me a lie about how much money was left", "has been lying to me about our money"],
    "forgot my graduation": ["did not remember that it was my graduation", "completely forgot about my graduation day"],
    "sold my guitar": ["put my old guitar online and sold it", "sold the guitar that my grandfather gave me"],
    "crashed my car": ["borrowed my car and crashed it into a wall", "drove my car into a tree"],
    "broke my laptop": [
        "dropped my laptop on the floor and broke it",
        "spilled coffee on my laptop so it is broken now",
    ],
    "ate my food": ["ate all of the food that I had cooked", "took my food out of the fridge and ate it"],
    "kissed a stranger": ["got drunk and kissed a stranger at a bar", "was seen kissing some stranger downtown"],
    "quit a job": ["walked out and quit a good job", "quit a job without having a new one"],
    "adopted a dog": ["came home with a dog and said it was adopted", "adopted a big dog without asking me"],
    "lost my keys": ["lost the only keys I have", "took my keys and cannot find them any more"],
    "ruined my wedding": ["got so drunk that my wedding was ruined", "made a scene and ruined my wedding"],
    "borrowed my savings": ["asked to borrow all of my savings", "borrowed my savings and never paid me back"],
    "moved to Spain": ["packed up everything and moved to Spain", "moved away to Spain without much warning"],
    "shared my secret": ["told everybody the secret I had shared", "shared my biggest secret at a party"],
    "insulted my cooking": ["made fun of my cooking in front of guests", "insulted my cooking at the dinner table"],
    "stole my idea": ["took my idea and presented it as new", "stole the idea I had worked on for months"],
    "threw out my books": ["put my books in the trash", "threw out the books I had since school"],
    "painted my room": ["painted my room bright green", "went and painted my room while I was away"],
    "canceled our trip": [
        "canceled the trip we had planned for a year",
        "called and canceled our trip at the last minute",
    ],
    "skipped my party": ["did not show up to my party", "skipped the party I was planning for weeks"],
    "started a rumor": ["started a nasty rumor about me", "told people a rumor that is not even true"],
    "got arrested": ["got arrested after a fight", "was arrested for something stupid"],
    "won the lottery": ["won a lot of money in the lottery", "won the lottery and told nobody"],
    "joined a cult": ["joined some group that looks like a cult", "ran off to join a cult"],
    "broke a window": ["broke a window of our house with a ball", "got angry and broke a window"],
    "shouted at my kids": ["lost control and shouted at my kids", "shouted at my kids over nothing"],
    "copied my homework": ["copied my homework and handed it in", "took my homework and copied every line"],
    "hid a letter": ["hid a letter that was addressed to me", "opened a letter of mine and then hid it"],
    "sang all night": ["kept me awake by singing all night", "would not stop and sang all night"],
    "cut down my tree": ["cut down the tree in my garden", "took a saw and cut down my tree"],
    "fed my cat candy": ["gave candy to my cat", "thought it was funny to feed candy to my cat"],
    "deleted my photos": ["deleted every photo from my camera", "deleted the photos of my trip"],
    "wore my dress": ["wore the dress I was saving", "took my dress and wore it to a club"],
    "failed an exam": ["failed an important exam", "failed the last exam of the course"],
    "gave me a ring": ["surprised me with a ring", "gave me a ring in front of everyone"],
    "burned dinner": ["burned the dinner I had invited people to", "left the oven on and burned dinner"],
    "called me lazy": ["called me lazy in front of my friends", "said that I am lazy"],
    "faked an illness": ["pretended to be ill", "faked an illness to get attention"],
    "bought a boat": ["spent everything on a boat", "bought a boat that we cannot afford"],
}

REACTIONS = {
    "moved out": ["packed my bags and moved out", "moved out the same day"],
    "cried for hours": ["sat on the floor and cried for hours", "just cried for hours"],
    "said nothing": ["was too shocked so I said nothing", "kept quiet and said nothing"],
    "yelled back": ["got angry and yelled back", "could not stop myself and yelled back"],
    "called the police": ["picked up the phone and called the police", "called the police right away"],
    "told my parents": ["went home and told my parents", "told my parents everything"],
    "asked for money": ["asked for money to make up for it", "wrote an email and asked for money"],
    "laughed it off": ["tried to laugh and laughed it off", "laughed it off at first"],
    "left the city": ["took a train and left the city", "left the city for a few days"],
    "wrote a letter": ["wrote a long letter about it", "sat down and wrote a letter"],
    "changed the locks": ["had someone come and changed the locks", "changed the locks on my door"],
    "took a break": ["needed space and took a break", "took a break from seeing {them}"],
    "blocked {them}": ["blocked {them} on everything", "blocked {their} number"],
    "hired a lawyer": ["went out and hired a lawyer", "hired a lawyer to help me"],
    "went to therapy": ["started going and went to therapy", "went to therapy because of it"],
    "got drunk": ["went to a bar and got drunk", "got drunk with a friend"],
}

QUESTIONS = {
    "Should I forgive {them}?": ["Is it time to forgive {them}?", "Can I ever forgive {them}, or should I?"],
    "Should I apologize?": ["Do I owe an apology, should I apologize?", "Am I the one who should apologize?"],
    "How do I talk to {them}?": ["How can I even talk to {them} about this?", "What is a good way to talk to {them}?"],
    "Am I overreacting?": ["Is this normal or am I overreacting?", "My friends think I am overreacting, am I?"],
    "Should I cut contact?": ["Is it right to cut contact for good?", "I want to cut contact, should I?"],
    "Can I trust {them}?": ["Will I be able to trust {them} again?", "How could I trust {them} after that?"],
    "Should I tell the family?": [
        "Does the family need to know, should I tell them?",
        "Do I tell the rest of the family?",
    ],
    "What would you do?": ["If you were me, what would you do?", "I am lost here, what would you do?"],
    "Do I need help?": ["Is this the point where I need help?", "Do I need help from somebody?"],
    "Is it my fault?": ["I keep thinking it is my fault, is it?", "Was it all my fault?"],
    "Should I wait?": ["Is it better to wait a little?", "Do I act now or should I wait?"],
    "How do I move on?": ["What is the way to move on?", "I just want to move on, how?"],
    "Should I demand money back?": ["Can I demand the money back?", "Do I demand my money back or let it go?"],
    "Should I see a lawyer?": ["Is this something a lawyer should see?", "Do I have to see a lawyer about this?"],
}

SUBREDDITS = ["relationships", "advice", "family", "offmychest", "confession", "legaladvice", "work", "life"]

TITLES = [
    "My {relation} {name} ({age}{gender}) and I ({my_age}{my_gender}) have a problem",
    "I ({my_age}{my_gender}) do not know what to do about my {relation} {name} ({age}{gender})",
    "I ({my_age}{my_gender}) and my {relation} {name} ({age}{gender}), need advice",
    "Problem with my {relation} {name} ({age}{gender}), I ({my_age}{my_gender}) am lost",
]

OPENINGS = [
    "Sorry for the long post.",
    "I am on my phone, sorry.",
    "First time posting here.",
    "Throwaway account.",
    "This is hard to write.",
    "English is not my first language.",
]

BACKGROUND = [
    "We have known each other for {n} years.",
    "Things were fine for about {n} months.",
    "I have always been close to {them}.",
    "{They} can be really nice at times.",
    "We live about {n} miles apart.",
    "Everybody likes {them}.",
    "We talk nearly every day.",
]

EVENT_SENTENCES = [
    "{When}, {they} {event}.",
    "So {when} {name} {event}.",
    "{Name} {event} {when}.",
    "Well, {when} {they} {event}.",
]
REACTION_SENTENCES = ["I {reaction}.", "After that I {reaction}.", "When I found out I {reaction}.", "So I {reaction}."]

FILLER = [
    "It is really hard for me and I keep thinking about it all day long.",
    "Everyone says something different and I am tired.",
    "There is a lot more to say but I will leave it here.",
    "Anyway this is a long story with many details.",
    "I am not sure how to put this but thanks for reading.",
    "Life is strange and people are strange too.",
]
