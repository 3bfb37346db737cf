"""The sentences of the demo's pretraining text: templates of `grammar.expand` over the facts of `world.draw_facts`."""

# ruff: noqa: E501 -- one sentence a line

LIFE = (
    "{who} {surname} is a {job} [who lives in|from|in] {town}[| and {hobby}].",
    "[On {day}s|At weekends|In {month}|After work|In the evening] {she} {hobby}[| with {friend}].",
    "{she} [has worked|worked] [for the company|at the {town} works|in the {town} shop] for {count} [weeks|months].",
    "[Every {day}|Each morning|When there is {weather}] {she} [takes the tram to|walks to|drives to] {city}.",
    "{her} [neighbour|sister|brother|cousin|old friend] {friend} [calls|visits|writes to] {who} [every {day}|in {month}].",
    "[Last {month}|On {day}|That week] {she} bought a {colour} {product} [for {price} crowns|in {city}|from {friend}].",
    "The {product} [{use} and|is old but|was cheap, and] {who} [likes it|would not sell it|uses it every day].",
    "{who} [keeps|has] a {material} [table|box|bench|bowl] [by the window|near the door|under the stairs].",
    "[When asked about work|At the market|At dinner], {she} [says little|tells long stories|talks about {city}].",
)
PRODUCT_PAGE = (
    "The {model} is a [small|large|light|quiet|plain|sturdy] {product} [of {material}|with a {material} foot|in {colour}].",
    "It {use}[, and it does so|] [quickly|quietly|day after day|without fuss|for years].",
    "The {part} is [easy to reach|made of {material}|held by {count} small screws|the part that wears first].",
    "If the {product} {fault}, [check|look at|take out|replace] the {part} [first|before anything else|and try again].",
    "To keep it in order, {care} [once a week|every month|before the winter|after each use].",
    "[A {model} costs|The price is|In the shop it is] {price} crowns[| in {colour} and a little more in {shade}].",
    "[It was drawn by|The first one was built by|The pattern comes from] {who} {surname} [in {town}|of {city}].",
    "[The works in {town} make|Our people in {town} build|{town} sends out] {count} of them [a day|a week|each {day}].",
    "It goes well with the {other}, which {other_use}.",
)
STEPS = (
    "switch off the {product} and [let it cool|pull the plug|wait for {count} minutes]",
    "[turn|lay|set] the {product} [on its side|on a soft cloth|on the bench]",
    "[loosen|undo|take out] the [two|three|four] screws [below|behind|next to] the {part}",
    "[lift|slide|pull] the {part} [out|free] [with care|with both hands|in one move]",
    "[check the {part} for cracks|look whether the {part} is worn|hold the {part} to the light]",
    "{care}[| with a little oil| and let it dry]",
    "put [the new|a fresh|the clean] {part} [in|back in its place]",
    "[close|fasten] the cover and [test|try] the {product} [twice|for a minute|once more]",
    "write the date [on the card|in the book|on the label]",
)
WORKDAY = (
    "[On {day}|In the morning|At noon|Late on {day}|Before the shift] {who} [opened|swept|locked|left] the [shop|store|yard|hall].",
    "[There was {weather}|{weather} came] [over|in|down on] {town}[| and the road to {city} was closed].",
    "{friend} [carried|brought|moved|packed] {count} crates of {colour} [paper|cloth|wire|boxes] [to the van|to the cellar].",
    "A {job} from {city} [asked for|bought|brought back|looked at] a {shade} {other}.",
    '"[Does it last|Is it new|Is it made here]?" [she|he|the {job}] asked. "[Yes|Of course|For years]", said {who}.',
    "[The {other} {other_fault}|One {other} had lost its {other_part}], so {friend} [put it aside|sent it to {city}].",
    "[By evening|When the bell rang|At closing time] they had sold {count} [pieces|boxes|lamps and kettles].",
    "{who} [counted|weighed|listed] the {material} [rods|plates|rings] [twice|again|with {friend}] and wrote down {order}.",
    "[Nobody|Only {friend}|Everyone] [saw|noticed|spoke of] the {colour} [van|light|door] [behind|beside|near] the [store|gate].",
    "[Then|After that|Later] they [drank tea|ate soup|went home|sat down] and [spoke of|planned|forgot] the {month} [fair|sale].",
)
MINUTES = (
    "{who} [will|is to|agreed to] [count|order|paint|repair|move] the {colour} [shelves|crates|doors|signs] [by|before] {day}.",
    "{friend} [will|is to|promised to] [call|write to|visit] the [works|shop|school] in {town} [by|before|on] {later}.",
    "[The {product} may cost|The new price of the {product} is] {price} crowns [from {month} on|until {month}].",
    "[All|Most|Nobody] [agreed|was against it|voted for it], and {friend} [wrote it down|asked for time|thanked {who}].",
    "[The fair in {city}|The {month} sale] [starts|begins|ends] on {date} {month}.",
)

# A customer's trouble and what came of it: five kinds of trouble, none of them given a department's name here.
TROUBLE = {
    "money": (
        (
            "[you have|your office has|the company has] [charged|billed] me [twice|two times|double] for [order {order}|one {product}]",
            "the invoice [says|shows] {price} crowns, but [we agreed on less|the shop price is lower|I paid less last {month}]",
            "[my refund|the refund|the money you owe me] for the {product} has [not come|never arrived|not been paid]",
            "[I paid by card|I sent the payment] [on {day}|in {month}], [yet|but] [a reminder|a late fee|a second bill] came",
            "the [tax|discount|deposit] is [missing from|wrong on] the [bill|invoice|receipt] of {date} {month}",
        ),
        (
            "we have [paid|sent|returned] {price} crowns [to your bank|to your card]",
            "[a corrected|a new] invoice is [in the post|on its way|attached]",
            "the [fee|second charge|amount] was [an error|our mistake] and has been [taken off|cancelled]",
        ),
    ),
    "parcel": (
        (
            "the parcel [with my {product}|of order {order}] has [not arrived|been lost|gone to {city}]",
            "the [driver|courier] [left|dropped] the [box|parcel] [in the rain|at the wrong door|with a stranger in {city}]",
            "[the tracking|the tracking number] [has not moved|shows nothing] [since {day}|for {count} days]",
            "[only half|one box] of [the shipment|my order] [came|was delivered] [on {day}|this week]",
            "the [carton|box|package] [came|was] [torn|crushed|wet|open]",
        ),
        (
            "the [courier|driver] will [come again|bring it] on {later}",
            "the [parcel|shipment] was [found|stuck] in the depot in {town} [and left today|and is on the road again]",
            "[a new|another] [box|parcel] [left|leaves] our store on {day}",
        ),
    ),
    "fault": (
        (
            "[my|our|the] {product} {fault}[| since {day}| after only {count} days]",
            "the {part} of [my|our|the] {product} is [broken|cracked|loose|bent]",
            "[my|our] {product} will not [start|turn on|work] [any more|at all|since the {weather}]",
            "[sparks|smoke|a burnt smell] [came|comes] out of the {product}",
            "[when I press the switch|after a minute], the {product} {fault}",
        ),
        (
            "[a mechanic|our mechanic] will [look at|mend] the {product} on {later}",
            "we have [put in|fitted] a new {part}[| and tested it for a day]",
            "[please send us|bring us] the {product}, the [guarantee|warranty] [covers|pays for] the {part}",
        ),
    ),
    "login": (
        (
            "[I cannot|my wife cannot|we cannot] [sign in|log in] [to the web page|to my account|since {day}]",
            "[the page|the app] says that my password is [wrong|too old|not known]",
            "[my account|my user name] is [locked|blocked|gone][| since {day}]",
            "the [code|mail|link] [to reset|for] my password [never comes|does not come|has run out]",
            "[I need to|I want to] change [the email|the phone number|the name] [in|on] my [account|profile]",
        ),
        (
            "we have [reset your password|unlocked your account], [please|you may] sign in again",
            "a [link|code] for a new password [is in your mail|was sent to you]",
            "your [profile|account] [now shows|has] the new [name|email]",
        ),
    ),
    "purchase": (
        (
            "[we would like|I would like|our school wants] to buy {count} [of your {product}s|{colour} {product}s]",
            "[what is|can you tell me] the price [for|of] {count} [pieces|{product}s][| with a discount]",
            "[do you sell|is there] a {product} [in {colour}|of {material}|that is smaller]",
            "[please send|could you send] [a quote|an offer|your catalogue] for the {model}",
            "[is the {model}|are {colour} {product}s] [in stock|on offer|for sale] [in {month}|before {month}]",
        ),
        (
            "[our quote|our offer] for {count} pieces is {price} crowns",
            "[yes|gladly]: the {model} is in stock [in {colour}|in {town}]",
            "[the catalogue|the price list] is [attached|in the post], and from {count} pieces on there is a discount",
        ),
    ),
}
LETTER_OPENING = (
    "[dear people|good day|hello|dear company|to whom it may concern],",
    "[dear {friend}|dear clerk],",
)
LETTER_MIDDLE = (
    "[this is the|it is the] [second|third] time I [write|ask].",
    "I [live|work] in {town} and [cannot come by|have no car|am a {job}].",
    "[please|kindly] [answer|write|call] [before {later}|soon|this week].",
    "[I have been|We have been] your customer [since {month}|for {count} months].",
    "[the {other} is|your {other} is] [good|fine], by the way.",
)
REPLY_OPENING = (
    "[dear {who}|good day {who}], [thank you for your letter|we are sorry|we have read your letter]."
)
REPLY_END = "[kind regards|with regards|yours], {friend} [from|in|at] {town}."
