// Carry resolution: words with a small overflow in, canonical words out.
//
//   sum_i m_i * 2^(Width*i) = sum_i s_i * 2^(Width*i)   mod 2^(Width*count)
//
// i counts digits; a word is `Digits` of them, s_data holds Width + GuardBits bits each.
//
// Ranges:     s_i [0, 2^(Width + GuardBits)), GuardBits < Width; m_i [0, 2^Width).
// Latency:    4 cycles, independent of data. Throughput: one word a cycle; gaps are allowed; no
//             back-pressure.
// Cost:       two adders of Width bits a digit; the loop from word to word is one LUT.
// Source:     carry-skip with a skip distance of one word.
`default_nettype none

module residue_normalise #(
    parameter int unsigned Width = 51,
    parameter int unsigned GuardBits = 3,
    parameter int unsigned Digits = 1,
    parameter int unsigned TagBits = 1,
    localparam int unsigned SBits = Width + GuardBits
) (
    input  wire                     clk,
    input  wire                     rst_n,
    input  wire                     s_valid,
    input  wire                     s_first,
    input  wire                     s_last,
    input  wire  [     TagBits-1:0] s_tag,
    input  wire  [Digits*SBits-1:0] s_data,
    output logic                    m_valid,
    output logic                    m_first,
    output logic                    m_last,
    output logic [     TagBits-1:0] m_tag,
    output logic [Digits*Width-1:0] m_data
);

  if (GuardBits >= Width || Digits < 1) begin : g_illegal
    $error("residue_normalise: GuardBits must be below Width, Digits at least 1");
  end

  logic [2:0] valid_q;
  logic [2:0] first_q, last_q;
  logic [TagBits-1:0] tag_q[3];
  logic [GuardBits-1:0] over_q;  // overflow of the word before
  logic [Digits-1:0][Width:0] sum_q;
  logic [Digits-1:0][Width-1:0] word2_q, word3_q;
  logic [Digits-1:0] generate_q, propagate_q, carry3_q;
  logic carry_q;

  logic [Digits-1:0] carry_in;  // into each digit of the word
  logic carry;                  // behind the last one: into the next word
  always_comb begin
    carry = carry_q & ~first_q[1];
    for (int unsigned i = 0; i < Digits; i++) begin
      carry_in[i] = carry;
      carry       = generate_q[i] | (propagate_q[i] & carry);
    end
  end

  always_ff @(posedge clk) begin
    if (!rst_n) {m_valid, valid_q} <= '0;
    else {m_valid, valid_q} <= {valid_q, s_valid};
  end

  always_ff @(posedge clk) begin
    {m_first, first_q} <= {first_q, s_first};
    {m_last, last_q}   <= {last_q, s_last};
    tag_q[0]           <= s_tag;
    tag_q[1]           <= tag_q[0];
    tag_q[2]           <= tag_q[1];
    m_tag              <= tag_q[2];

    // 1: the overflow moves on by one digit; what is left overflows by one at most.
    if (s_valid) over_q <= s_data[Digits*SBits-1-:GuardBits];
    sum_q[0] <= (Width + 1)'(s_data[Width-1:0]) + (s_first ? '0 : (Width + 1)'(over_q));
    for (int unsigned i = 1; i < Digits; i++)
      sum_q[i] <= (Width + 1)'(s_data[i*SBits+:Width])
          + (Width + 1)'(s_data[i*SBits-1-:GuardBits]);
    // 2: a digit that overflowed is small, so it does not propagate as well.
    for (int unsigned i = 0; i < Digits; i++) begin
      word2_q[i]     <= sum_q[i][Width-1:0];
      generate_q[i]  <= sum_q[i][Width];
      propagate_q[i] <= &sum_q[i][Width-1:0];
    end
    // 3: the loop.
    word3_q  <= word2_q;
    carry3_q <= carry_in;
    if (valid_q[1]) carry_q <= carry;
    // 4
    for (int unsigned i = 0; i < Digits; i++)
      m_data[i*Width+:Width] <= word3_q[i] + Width'(carry3_q[i]);
  end

endmodule

`default_nettype wire
